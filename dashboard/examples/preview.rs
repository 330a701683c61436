//! Serves the demonstration site with made-up data, to look at the pages:
//! `cargo run -p heliostat-dashboard --example preview [ADDRESS] [--event]`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "an example for developers"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;
use support::World;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let event = arguments.iter().any(|a| a == "--event");
    arguments.retain(|a| !a.starts_with("--"));
    let listen = arguments
        .first()
        .map_or("127.0.0.1:8099", String::as_str)
        .parse()
        .unwrap();
    let directory = std::env::temp_dir().join(format!("heliostat-preview-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let day = Duration::from_secs(86_400);
    let world = World::full(&directory, day, Duration::from_secs(240)).await;
    world.sample(support::now()).await;
    world.show(support::now(), event);
    let server = heliostat_dashboard::serve(listen, world.app(), Some("preview".into()))
        .await
        .unwrap();
    eprintln!("http://{}/ until interrupted", server.address());
    let mut at = support::now();
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        at = at + Duration::from_secs(20);
        world.clock.advance_to(at);
        world.sample(at).await;
    }
    server.stop().await;
    drop(world);
    std::fs::remove_dir_all(&directory).unwrap();
}
