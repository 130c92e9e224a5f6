//! One binary for all integration tests, one module for each capability.

mod support;

mod admin;
mod bad_input;
mod canary;
mod clients;
mod commands;
mod corpus;
mod forced;
mod json_answers;
mod no_wrong_answer;
mod peers;
mod recordings;
mod restart;
mod single_flight;
mod virtual_time;
