//! The incident rules: case by case, and their invariants for any input.

mod any_order;
mod examples;
