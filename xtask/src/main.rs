//! The project's automation: `cargo xtask COMMAND`.
//!
//! One file per command; [`steps`] runs programs visibly, [`output`] is the only module that prints.
//! Nothing here is part of the product.

mod bench;
mod check;
mod clients;
mod counts;
mod demo;
mod dist;
mod dist_check;
mod env;
mod fuzz;
mod guest;
mod lab;
mod output;
mod programs;
mod root;
mod setup;
mod smoke;
mod steps;
mod suite;
mod test;
mod tidy;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks, tests and measures pyro.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Arguments),
    #[command(hide = true)]
    BenchFlatten(bench::FlattenArguments),
    Check(check::Arguments),
    Demo(demo::Arguments),
    Dist(dist::Arguments),
    DistCheck(dist_check::Arguments),
    Env(env::Arguments),
    Fuzz(fuzz::Arguments),
    Guest(guest::Arguments),
    Lab(lab::Arguments),
    Setup(setup::Arguments),
    Smoke(smoke::Arguments),
    Test(test::Arguments),
    Tidy(tidy::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchFlatten(arguments) => bench::run_flatten(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::DistCheck(arguments) => dist_check::run(&arguments),
        Command::Env(arguments) => env::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Guest(arguments) => guest::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Smoke(arguments) => smoke::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Tidy(arguments) => tidy::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(lab::CommandFailed(status)) = error.downcast_ref() {
                return ExitCode::from(*status);
            }
            if !error.is::<counts::TestsFailed>() {
                output::error(&error);
            }
            ExitCode::FAILURE
        }
    }
}
