//! The rules of incidents and warnings: case by case, and their invariants for any input.

mod any_order;
mod examples;
mod setup;
mod warning_examples;
mod warning_order;
