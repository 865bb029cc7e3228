//! Says what a policy lets a guest reach, and which rule would open more. Nothing is booted.
//!
//! `cargo run -p pyro-core --example policy`

#![allow(clippy::print_stdout)] // an example's output is its purpose

use pyro_core::network::{NetworkRules, check, enforced, parse_rule};
use pyro_core::store::NetworkPolicy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rules = NetworkRules {
        allow: vec![parse_rule("allow", "127.0.0.1:5432")?],
        deny: vec![parse_rule("deny", "198.51.100.0/24")?],
        ..NetworkRules::default()
    };
    let policy = enforced(NetworkPolicy::Egress, &rules);
    for destination in ["127.0.0.1:5432", "127.0.0.1:22", "10.0.0.5:443", "9.9.9.9:443", "169.254.169.254:80"]
    {
        let told = check(&policy, None, destination)?;
        println!("{destination}: {}", serde_json::to_string(&told)?);
    }
    Ok(())
}
