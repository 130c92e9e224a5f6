//! The load driver's place. Scenarios, the driver and its reports live here once they are written;
//! the emulator beside it (`loadtest/emulator`) already serves tests and the demo.
