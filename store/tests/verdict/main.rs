//! The verdict: what it says case by case, and what holds whatever comes.

mod any_order;
mod examples;
