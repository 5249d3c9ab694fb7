//! The verdict and the warnings: what they say case by case, and what holds whatever comes.

mod any_order;
mod examples;
mod warning_examples;
mod warning_order;
