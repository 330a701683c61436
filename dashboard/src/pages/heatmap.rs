//! Racks as a heat-map: each cell a GPU (or a node, on large sites), its grey
//! the share of its limit that it draws.

use crate::html::{html, url_part};
use crate::live::{Live, shows_gpus};
use crate::snapshot::Snapshot;
use crate::text;
use heliostat_models::site::Site;

pub(super) fn write(out: &mut String, live: &Live, snapshot: &Snapshot, site: &Site) {
    let gpus = shows_gpus(site);
    html!(
        out,
        "<section class=\"panel\" aria-labelledby=\"h-racks\"><h2 id=\"h-racks\">{} \
         <span class=\"aside\">power of each {} against its limit</span></h2>",
        text::RACKS,
        if gpus { "GPU" } else { "node" }
    );
    legend(out);
    out.push_str("<div class=\"racks\" data-heatmap=\"\">");
    for (index, rack) in site.racks.iter().enumerate() {
        let bar = &snapshot.racks[index];
        let key = format!("pn.{}", bar.id);
        html!(
            out,
            "<div class=\"rack {}\" data-state=\"{}\"><h3><a href=\"/racks/{}\">{}</a> <span class=\"aside\">",
            live.state(&key),
            key,
            url_part(&rack.id),
            rack.id
        );
        html!(
            out,
            "<span data-live=\"{}\">{}</span> of <span data-live=\"{}.limit\">{}</span></span></h3><div class=\"cells\">",
            key,
            live.text(&key),
            key,
            live.text(&format!("{key}.limit"))
        );
        for node in site.nodes.iter().filter(|n| n.rack == index) {
            if gpus {
                html!(
                    out,
                    "<div class=\"node\"><a class=\"label\" href=\"/nodes/{}\">{}</a>",
                    url_part(node.id.as_str()),
                    node.id
                );
                for device in &site.devices[node.devices.clone()] {
                    cell(out, live, "devices", device.id.as_str());
                }
                out.push_str("</div>");
            } else {
                cell(out, live, "nodes", node.id.as_str());
            }
        }
        out.push_str("</div></div>");
    }
    out.push_str("</div></section>");
}

fn cell(out: &mut String, live: &Live, kind: &str, id: &str) {
    let nothing = (String::from("none"), id.to_owned());
    let (class, words) = live.cell.get(id).unwrap_or(&nothing);
    html!(
        out,
        "<a class=\"cell {}\" href=\"/{}/{}\" data-cell=\"{}\" aria-label=\"{}\" title=\"{}\"></a>",
        class,
        kind,
        url_part(id),
        id,
        words,
        words
    );
}

fn legend(out: &mut String) {
    out.push_str("<p class=\"legend\" aria-hidden=\"true\">0 %");
    for level in 0..=10 {
        html!(out, "<i class=\"cell l{}\"></i>", level);
    }
    out.push_str(
        "100 % of its limit <i class=\"cell l8 capped\"></i> capped <i class=\"cell over\"></i> above its limit \
         <i class=\"cell none\"></i> no reading</p>",
    );
}
