//! One binary for all integration tests, one module for each capability.

mod support;

mod admin;
mod bad_input;
mod cache_headers;
mod canary;
mod chained;
mod clients;
mod clock_steps;
mod commands;
mod corpus;
mod differential;
mod expires_in;
mod flood;
mod forced;
mod json_answers;
mod load;
mod load_scenarios;
mod many_keys;
mod matrix;
mod names;
mod no_wrong_answer;
mod operator;
mod peers;
mod reachability;
mod recordings;
mod restart;
mod single_flight;
mod sources;
mod store;
mod supervised;
mod under_fire;
mod virtual_time;
