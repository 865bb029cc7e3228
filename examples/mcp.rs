//! A server of pyro's tools inside another program, on standard input and output.
//!
//! `cargo run -p pyro-mcp --example mcp` after `cargo xtask demo` has built everything it needs.

mod places;

use pyro_mcp::{Grants, Mode, Options, Project, Server, Surface, serve_stdio};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Workspaces begin with this directory's checkout, and nothing else of the host is reached.
    let project = Project::around(&std::env::current_dir()?);
    let roots: Vec<_> = project.iter().map(|project| project.root().to_owned()).collect();
    let options = Options { surface: Surface::Mode(Mode::ReproFix), grants: Grants::new(&roots)?, project };
    serve_stdio(Server::open(places::config()?, options)?).await?;
    Ok(())
}
