//! The pages, charts and live values as a browser gets them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod support;

use heliostat_dashboard::{Health, ServeError, Server, serve};
use heliostat_models::{Decision, DecisionKind, JobId, JobRecord};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use support::World;
use support::http::{get, listen, request};

const LOOPBACK: &str = "127.0.0.1:0";

async fn served(world: &World) -> Server {
    serve(LOOPBACK.parse().unwrap(), world.app(), None)
        .await
        .unwrap()
}

async fn small_world(directory: &std::path::Path) -> World {
    let span = Duration::from_secs(2 * 3_600);
    let world = World::full(directory, span, Duration::from_secs(600)).await;
    world.sample(support::now()).await;
    world
}

#[tokio::test]
async fn the_overview_shows_the_figures_of_the_site() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world).await;
    let page = get(server.address(), "/").await;
    assert_eq!(page.status, 200);
    let text = page.text();
    for expected in [
        "Heliostat demo hall",
        "limit 190.0 kW",
        "interim (iPUE)",
        "1.118",
        "energy register of meter-site by energy register of meter-it-a + meter-it-b, category 1",
        "gCO₂e/kWh, life cycle",
        "Armed",
        "data-cell=\"r01-n1-gpu0\"",
        "href=\"/racks/r08\"",
        "chat-serve",
        "climate-ens",
        "Refused",
        "probe-16 ended and left 4.1 kW at pdu-2.",
        "data-state=\"pc.tenant\"",
        "49.5 kW",
        "64.7 kW",
        "<noscript><meta http-equiv=\"refresh\"",
        "<svg width=\"760\" height=\"230\"",
    ] {
        assert!(text.contains(expected), "the overview lacks `{expected}`");
    }
    // The whole is metered; the GPUs are a sum with a silent one in it.
    assert!(text.contains("data-state=\"site.power\">1"), "site power");
    assert!(
        text.contains("data-state=\"part.gpu\">≥ "),
        "a sum with a hole is marked"
    );
    assert!(
        text.contains(">255 of 256 known<"),
        "and says how much of it"
    );
    assert!(
        text.contains("data-state=\"part.it\">not known"),
        "what the hole leaves open is not given to another part"
    );
    assert!(text.contains("Part not known"));
    assert!(
        text.contains("no reading of 700 W"),
        "a silent GPU is marked"
    );
    assert!(
        !text.contains("<script>") && !text.contains(" style=\""),
        "nothing inline"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_rack_leads_to_its_node_and_gpu_with_reasons() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world).await;
    let at = server.address();
    let rack = get(at, "/racks/r01").await.text();
    assert!(rack.contains("href=\"/nodes/r01-n1\""), "{rack}");
    assert!(rack.contains("pdu-1 ← ups-a ← transformer ← feed"));
    let node = get(at, "/nodes/r01-n1").await.text();
    assert!(node.contains("href=\"/devices/r01-n1-gpu0\""));
    let gpu = get(at, "/devices/r01-n1-gpu0").await.text();
    for expected in [
        "/jobs/llm-70b",
        "Why this cap:",
        "pdu-1 binds: the last watt",
        "acknowledged by the agent at 560 W",
        "Temperature of r01-n1-gpu0",
        "; at most 400 W when control is lost",
        "data-now=\"/fragments/devices/r01-n1-gpu0\"",
    ] {
        assert!(gpu.contains(expected), "the GPU's page lacks `{expected}`");
    }
    let part = get(at, "/devices/r03-n2-gpu6").await.text();
    assert!(part.contains("limit as a whole, of which this share is an estimate"));
    assert!(!gpu.contains("limit as a whole"));
    let now = get(at, "/fragments/devices/r01-n1-gpu0").await.text();
    assert!(now.contains("Latest reading") && !now.contains("<html"));
    assert!(gpu.contains(&now), "the page says what its fragment says");
    let job = get(at, "/jobs/climate-ens").await.text();
    assert!(job.contains("Waits for tomorrow&#39;s sun"));
    for missing in [
        "/racks/none",
        "/nodes/none",
        "/devices/none",
        "/fragments/devices/none",
        "/jobs/none",
        "/decisions/none",
        "/nowhere",
    ] {
        let answer = get(at, missing).await;
        assert_eq!(answer.status, 404, "{missing}");
        assert!(answer.text().contains("Not found"));
    }
    server.stop().await;
}

#[tokio::test]
async fn long_decisions_are_cut_and_their_pages_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let racks: Vec<String> = (0..48).map(|i| format!("rack-{i:02}")).collect();
    let whole = format!("Even the lowest caps exceed {}.", racks.join(", "));
    let infeasible = Decision {
        sequence: 0,
        at: support::now(),
        kind: DecisionKind::Allocation,
        armed: true,
        summary: whole.clone(),
        reason: "by the clock".to_owned(),
        certificate: None,
        caps: Vec::new(),
    };
    for _ in 0..3 {
        let summary = "Caps for 0 jobs; 0 changed by more than 1 %.".to_owned();
        let quiet = Decision {
            summary,
            ..infeasible.clone()
        };
        world.decisions.record(quiet).unwrap();
    }
    let number = world.decisions.record(infeasible).unwrap();
    let server = served(&world).await;
    let page = get(server.address(), "/").await.text();
    assert!(page.contains("2 allocations, nothing changed by more than 1 %"));
    assert!(!page.contains("rack-47") && page.contains("rack-01"));
    let link = format!("<a href=\"/decisions/{number}\">all of it</a>");
    assert!(page.contains(&link), "{page}");
    let one = get(server.address(), &format!("/decisions/{number}")).await;
    assert!(one.text().contains(&whole));
    server.stop().await;
}

#[tokio::test]
async fn an_empty_site_has_no_readings_and_no_zeroes() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = served(&world).await;
    let page = get(server.address(), "/").await.text();
    assert!(page.contains("data-state=\"site.power\">no reading"));
    assert!(page.contains("data-state=\"pue.hour\">no reading"));
    assert!(page.contains("No job has been announced yet."));
    assert!(page.contains("No decision has been taken yet."));
    assert!(!page.contains(">0 W<"), "nothing is not zero");
    for name in ["site-power", "pue", "carbon", "jobs", "plan"] {
        for form in ["svg", "png", "csv"] {
            let answer = get(server.address(), &format!("/charts/{name}.{form}")).await;
            assert_eq!(answer.status, 200, "{name}.{form}: {}", answer.text());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn charts_come_in_three_forms_and_refuse_what_they_cannot_draw() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world).await;
    let at = server.address();
    for name in [
        "site-power",
        "pue",
        "carbon",
        "renewable",
        "price",
        "cooling",
        "plan",
        "jobs",
        "rack-r01",
        "node-r01-n1",
        "gpu-r01-n1-gpu0-power",
        "gpu-r01-n1-gpu0-temperature",
        "gpu-r01-n1-gpu0-utilization",
        "gpu-r01-n1-gpu0-clock",
    ] {
        let svg = get(at, &format!("/charts/{name}.svg?from=now-6h&to=now")).await;
        assert_eq!(svg.status, 200, "{name}: {}", svg.text());
        assert!(svg.head.contains("image/svg+xml"));
        let text = svg.text();
        assert!(
            text.contains("<title>") && text.contains("<desc>") && text.contains("role=\"img\""),
            "{name}"
        );
        assert!(
            !text.contains("#0102"),
            "{name} has a colour that no theme knows"
        );
        let png = get(at, &format!("/charts/{name}.png?w=400&h=200")).await;
        assert!(png.body.starts_with(b"\x89PNG\r\n\x1a\n"), "{name}");
        let csv = get(at, &format!("/charts/{name}.csv")).await.text();
        let columns = csv.lines().next().unwrap().matches(',').count();
        assert!(
            csv.lines().count() > 2 && csv.lines().all(|l| l.matches(',').count() == columns),
            "{name}: {csv}"
        );
    }
    let svg = get(at, "/charts/site-power.svg").await.text();
    assert!(
        svg.contains("Power of the site, kW"),
        "the unit stands on the chart"
    );
    let csv = get(at, "/charts/site-power.csv?from=now-6h").await.text();
    let limits: Vec<&str> = csv.lines().filter(|l| l.contains("limit")).collect();
    assert!(
        limits.len() >= 2
            && limits
                .iter()
                .all(|l| l.contains("limit as configured today,190000,W,configured")),
        "{limits:?}"
    );
    // Readings go back two hours; before them nobody knows the limit.
    let first = limits[0].split(',').next().unwrap();
    assert!(first >= "2019-03-01T12:0", "{first}");
    let before = "/charts/rack-r01.csv?from=now-2d&to=now-1d";
    assert!(!get(at, before).await.text().contains("limit"));
    for (path, status, allowed) in [
        ("/charts/pue.svg?from=yesterday", 400, "now-6h"),
        ("/charts/pue.svg?from=now&to=now-1h", 400, "before"),
        ("/charts/pue.svg?from=1990-01-01", 400, "400 days"),
        ("/charts/pue.svg?w=9999999", 400, "240 to 2400"),
        ("/charts/pue.svg?color=red", 400, "from, to"),
        ("/charts/pue.pdf", 400, "NAME.csv"),
        ("/charts/pue", 400, "NAME.csv"),
        ("/charts/moon.svg", 404, "/charts"),
        ("/charts/rack-none.svg", 404, "/api/v1/site"),
        ("/charts/gpu-r01-n1-gpu0-mood.svg", 404, "temperature"),
    ] {
        let answer = get(at, path).await;
        assert_eq!(answer.status, status, "{path}");
        let error = answer.json();
        assert!(
            error["error"].is_string() && error["remedy"].is_string(),
            "{path}"
        );
        assert!(answer.text().contains(allowed), "{path}: {}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn live_values_arrive_and_change() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world).await;
    let address = server.address();
    let first = "1 Mar 2019, 14:05:00 UTC";
    let second = "1 Mar 2019, 14:06:00 UTC";
    let waiting = tokio::spawn(listen(address, move |t| {
        t.contains(first) && t.contains(second)
    }));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let later = support::now() + Duration::from_secs(60);
    world.sample(later).await;
    world.show(later, true);
    world.clock.advance_to(later);
    let text = tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(text.contains("event: snapshot"));
    assert!(
        text.contains("Grid event dso-17 until 1 Mar 16:06"),
        "the event shows"
    );
    assert!(text.contains("limit 133.0 kW"), "and its limit");
    // Open streams do not keep the server from stopping.
    let open = tokio::spawn(listen(address, |_| false));
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::timeout(Duration::from_secs(10), server.stop())
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(5), open)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn listeners_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = served(&world).await;
    let address = server.address();
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(tokio::spawn(listen(address, |_| false)));
    }
    let mut refused = None;
    for _ in 0..100 {
        let text = listen(address, |t| t.contains("\r\n\r\n")).await;
        if text.starts_with("HTTP/1.1 503") {
            refused = Some(text);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(refused.is_some(), "the 65th is refused");
    for listener in &open {
        listener.abort();
    }
    server.stop().await;
}

#[tokio::test]
async fn headers_keep_other_pages_and_hosts_out() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = served(&world).await;
    let at = server.address();
    let page = get(at, "/").await;
    let head = page.head.to_lowercase();
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'self'"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff"));
    let foreign = request(at, "GET", "/", &[("Host", "evil.example")], "").await;
    assert_eq!(foreign.status, 403);
    assert!(foreign.text().contains("localhost"));
    for asset in ["style.css", "app.js", "icon.svg"] {
        let file = get(at, &format!("/assets/{asset}")).await;
        assert_eq!(file.status, 200);
        assert!(
            !file.text().contains("http://") || asset == "icon.svg",
            "{asset} loads nothing from elsewhere"
        );
    }
    let second = serve(at, world.app(), None).await;
    assert!(matches!(second, Err(ServeError::InUse { .. })));
    let words = second.unwrap_err().to_string();
    assert!(words.contains("--http"), "{words}");
    server.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn markup_in_names_never_comes_out_raw(tail in "[a-z<>\"'&/=]{0,20}") {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let world = World::new(directory.path());
            let name = format!("<img src=x onerror=alert(1)>{tail}");
            world.fill_jobs();
            let known = world.jobs.all()[0].record.clone();
            world.jobs.put(JobRecord { id: JobId::from(name.as_str()), owner: name.clone(), ..known }).unwrap();
            let mut app = world.app();
            app.title_note = Some(name.clone());
            let trouble = name.clone();
            app.health = Arc::new(move || Health { counters: Vec::new(), troubles: vec![trouble.clone()] });
            let server = serve(LOOPBACK.parse().unwrap(), app, None).await.unwrap();
            let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
            for path in ["/".to_owned(), "/jobs".to_owned(), format!("/jobs/{encoded}"), "/charts/jobs.svg".to_owned(), format!("/racks/{encoded}")] {
                let text = get(server.address(), &path).await.text();
                assert!(!text.contains("<img"), "{path}");
                assert!(path.contains("racks") && !text.contains("onerror") || text.contains("&lt;img src=x onerror"), "{path}");
            }
            server.stop().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trouble_stands_on_every_page_while_it_lasts() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    world.fill_jobs();
    for troubles in [vec![], vec!["The external store is away.".to_owned()]] {
        let away = !troubles.is_empty();
        let mut app = world.app();
        app.health = Arc::new(move || Health {
            counters: Vec::new(),
            troubles: troubles.clone(),
        });
        let server = serve(LOOPBACK.parse().unwrap(), app, None).await.unwrap();
        for path in ["/", "/jobs", "/decisions", "/charts"] {
            let text = get(server.address(), path).await.text();
            assert_eq!(text.contains("external store is away"), away, "{path}");
            assert_eq!(text.contains("trouble hidden"), !away, "{path}");
        }
        server.stop().await;
    }
    // So do breakers that load is being taken off.
    world.view.send_modify(|view| {
        let mut strained = heliostat_optimizer::view::ControlView::clone(view);
        strained.troubles.push("ups-a may not bear it.".to_owned());
        *view = Arc::new(strained);
    });
    let server = served(&world).await;
    let text = get(server.address(), "/jobs").await.text();
    assert!(text.contains("ups-a may not bear it.") && !text.contains("trouble hidden"));
    server.stop().await;
}
