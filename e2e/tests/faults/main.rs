//! The fault matrix: each test injures the real system, and then every tick of the span must be accounted for.
//!
//! Those that take long are ignored in `just test`; `just e2e` runs all and prints the table.

mod clocks;
mod coordinators;
mod network;
mod order;
mod overload;
mod probers;
mod streams;
mod upgrade;
