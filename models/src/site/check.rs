//! What a site file means, beyond its form: whether it can be a data centre.
//! Each check notes its faults and goes on. A field that could not be read is
//! `None` here and was noted then; checks that need it are silent.

mod names;
mod partition;
mod power;
mod power_contract;
mod ramp;
mod sums;

use super::MeterRole;
use super::config::expand::{KEEP_DAYS, KEEP_DECISIONS};
use super::config::fault::Sink;
use super::config::reader::{At, Field};
use super::config::schema::{ControlSection, SiteFile};
use super::config::similar::nearest;
use super::config::zones::{ZONES, is_valid_eic, zone_by_id};
use crate::accelerators::AcceleratorCatalogue;

/// Checks sections against each other; faults go to `sink`.
pub(crate) fn check(file: &SiteFile, catalogue: &AcceleratorCatalogue, sink: &Sink) {
    site(file, sink);
    grid(file, sink);
    let tree = power::check(file, sink);
    partition::check(file, catalogue, &tree, sink);
    sums::check(file, catalogue, &tree, sink);
    ramp::check(file, sink);
    names::check(file, sink);
    meters(file, sink);
    cooling(file, &tree, sink);
    contracts(file, sink);
    power_contract::check(file, catalogue, &tree, sink);
    classes(file, sink);
    if let Some(section) = &file.control {
        control(section, sink);
    }
}

/// `name` is not among `known`: what to write instead.
fn use_one_of<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let mut all: Vec<&str> = known.into_iter().collect();
    let guess = nearest(name, all.iter().copied())
        .map(|near| format!("did you mean `{near}`? "))
        .unwrap_or_default();
    if all.is_empty() {
        return "there is none yet; add one".to_owned();
    }
    let more = all.len().saturating_sub(20);
    all.truncate(20);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{guess}known: {}{more}", all.join(", "))
}

fn site(file: &SiteFile, sink: &Sink) {
    let Some(section) = &file.site else { return };
    if let Some(country) = &section.country
        && !(country.value.len() == 2 && country.value.bytes().all(|b| b.is_ascii_uppercase()))
    {
        sink.error(
            country.at,
            "site.country",
            format!("`{}` is no country code", country.value),
            "write two capital letters after ISO 3166-1, e.g. FI",
        );
    }
    let Some(languages) = &section.languages else {
        return;
    };
    if languages.value.is_empty() {
        sink.error(
            languages.at,
            "site.languages",
            "`site.languages` is empty",
            "name at least one language, the preferred one first, e.g. [\"en\"]",
        );
    }
    for language in &languages.value {
        if !(language.value.len() == 2 && language.value.bytes().all(|b| b.is_ascii_lowercase())) {
            sink.error(
                language.at,
                "site.languages",
                format!("`{}` is no language code", language.value),
                "write two small letters after ISO 639-1, e.g. en",
            );
        }
    }
}

fn grid(file: &SiteFile, sink: &Sink) {
    let Some(section) = &file.grid else { return };
    let zone = section
        .zone
        .as_ref()
        .and_then(|zone| zone_by_id(&zone.value));
    if let (Some(named), None) = (&section.zone, zone) {
        sink.error(
            named.at,
            "grid.zone",
            format!("unknown grid zone `{}`", named.value),
            use_one_of(&named.value, ZONES.iter().map(|zone| zone.id)),
        );
    }
    let Some(eic) = &section.eic else { return };
    if !is_valid_eic(&eic.value) {
        sink.error(
            eic.at,
            "grid.eic",
            format!(
                "`{}` is no energy identification code: its check character is wrong",
                eic.value
            ),
            zone.map_or("copy it from ENTSO-E's list of areas".to_owned(), |zone| {
                format!("for {} it is {}", zone.id, zone.eic)
            }),
        );
    } else if let Some(zone) = zone
        && zone.eic != eic.value
    {
        sink.error(
            eic.at,
            "grid.eic",
            format!("`{}` is not the code of {}", eic.value, zone.id),
            format!("write {} or correct the zone", zone.eic),
        );
    }
}

fn meters(file: &SiteFile, sink: &Sink) {
    let places = names::power_names(file);
    for meter in &file.meters {
        if let Some(place) = &meter.place
            && !places.contains(&place.value)
        {
            let upper = file.power.iter().filter_map(|p| p.id.as_ref());
            sink.error(
                place.at,
                "meter.at",
                format!(
                    "a meter stands at `{}`, which is no power node",
                    place.value
                ),
                use_one_of(&place.value, upper.map(|id| id.value.as_str())),
            );
        }
        let Some(role) = &meter.role else { continue };
        match (&meter.pue_category, role.value == MeterRole::It) {
            (Some(category), false) => sink.error(
                category.at,
                "meter.pue_category",
                "only meters of IT energy have a PUE category",
                "remove `pue_category`, or set role = \"it\"",
            ),
            (None, true) => sink.warning(
                role.at,
                "meter.pue_category",
                "this meter of IT energy does not say where it measures",
                "add pue_category: 1 at the UPS output, 2 at the PDU output, 3 at the IT input",
            ),
            _ => {}
        }
    }
    for (role, word) in [
        (MeterRole::DataCentre, "data_centre"),
        (MeterRole::It, "it"),
    ] {
        let has = |m: &super::config::schema::MeterSection| {
            m.role.as_ref().is_none_or(|r| r.value == role)
        };
        if !file.meters.iter().any(has) {
            let at = file
                .meters
                .first()
                .and_then(|m| m.role.as_ref())
                .map_or(0, |r| r.at);
            sink.warning(
                at,
                "meter",
                format!("no meter has the role `{word}`: PUE can only be estimated"),
                format!("add a [[meter]] with role = \"{word}\" if there is one"),
            );
        }
    }
}

fn cooling(file: &SiteFile, tree: &power::Tree<'_>, sink: &Sink) {
    let Some(section) = &file.cooling else { return };
    if let Some(pue) = &section.design_pue {
        if pue.value > 5.0 {
            sink.error(
                pue.at,
                "cooling.design_pue",
                format!("a PUE of {} cannot be meant", pue.value),
                "PUE is all energy over IT energy: use a value from 1 to 5",
            );
        } else if pue.value < 1.0 {
            sink.error(
                pue.at,
                "cooling.design_pue",
                format!("a PUE of {} is below 1", pue.value),
                "PUE is all energy over IT energy, so it is 1 at least; is this its inverse?",
            );
        } else if pue.value > 2.0 {
            sink.warning(
                pue.at,
                "cooling.design_pue",
                format!("a PUE of {} is unusually high for a new plant", pue.value),
                "check the figure",
            );
        }
    }
    if let Some(feeder) = &section.fed_by
        && !tree.contains(&feeder.value)
    {
        sink.error(
            feeder.at,
            "cooling.fed_by",
            format!(
                "cooling is fed by `{}`, which is no power node",
                feeder.value
            ),
            use_one_of(&feeder.value, tree.ids()),
        );
    }
}

fn contracts(file: &SiteFile, sink: &Sink) {
    let shares: Vec<&At<f64>> = (file.contracts.iter())
        .filter_map(|c| c.renewable_share.as_ref())
        .collect();
    let sum: f64 = shares.iter().map(|share| share.value).sum();
    // Rounded shares may sum to a little above one.
    if let Some(last) = shares.last()
        && sum > 1.000_001
    {
        sink.error(
            last.at,
            "contract.renewable_share",
            format!(
                "the contracts cover {:.0} % of consumption with renewables",
                sum * 100.0
            ),
            "shares are of the site's whole consumption; together they are 1 at most",
        );
    }
}

fn classes(file: &SiteFile, sink: &Sink) {
    for class in &file.classes {
        if let (Some(interruptible), Some(pause)) = (&class.interruptible, &class.pause_minutes)
            && !interruptible.value
            && pause.value > 0.0
        {
            sink.warning(
                pause.at,
                &format!("class.{}.pause_minutes", class.class),
                format!(
                    "{} is never paused, but a pause costs {} min",
                    class.class, pause.value
                ),
                "set pause_minutes = 0, or interruptible = true",
            );
        }
        if let Some(floor) = &class.floor_speed
            && floor.value == 1.0
        {
            sink.warning(
                floor.at,
                &format!("class.{}.floor_speed", class.class),
                format!(
                    "{} may never be slowed: its devices cannot be capped",
                    class.class
                ),
                "use a floor below 1 unless that is meant",
            );
        }
    }
}

fn control(section: &ControlSection, sink: &Sink) {
    let pair = |a: &Field<f64>, b: &Field<f64>| {
        (a.as_ref().zip(b.as_ref())).map(|(a, b)| (a.at, a.value, b.value))
    };
    if let Some((at, lease, allocate)) = pair(&section.lease, &section.allocate_every)
        && lease < 2.0 * allocate
    {
        sink.error(
            at,
            "control.lease_seconds",
            format!(
                "a lease of {lease} s is shorter than two periods of allocation ({allocate} s each)"
            ),
            format!(
                "use at least {} s, or one lost message sets all devices to their safe caps",
                2.0 * allocate
            ),
        );
    }
    let inputs = section.keep_inputs_days.as_ref();
    let log = section.keep_decisions_days.as_ref();
    let (inputs_days, log_days) = (
        inputs.map_or(KEEP_DAYS, |days| days.value),
        log.map_or(KEEP_DECISIONS, |days| days.value),
    );
    if let Some(stated) = log.or(inputs)
        && log_days < inputs_days
    {
        sink.error(
            stated.at,
            "control.keep_decisions_days",
            format!(
                "decisions are kept for {log_days} days and their inputs for {inputs_days}: of no use without them"
            ),
            format!(
                "use at least {inputs_days}, or a keep_inputs_days of at most {log_days} ({KEEP_DAYS} if absent)"
            ),
        );
    }
    if let Some((at, plan, allocate)) = pair(&section.plan_every, &section.allocate_every)
        && plan < allocate
    {
        sink.warning(
            at,
            "control.plan_every_seconds",
            format!("plans are made every {plan} s but caps only every {allocate} s"),
            "plan less often than caps are computed",
        );
    }
    if let Some((at, sample, allocate)) = pair(&section.sample_every, &section.allocate_every)
        && sample > allocate
    {
        sink.warning(
            at,
            "control.sample_every_seconds",
            format!("devices are read every {sample} s but caps are computed every {allocate} s"),
            "read at least as often as caps are computed",
        );
    }
}

#[cfg(test)]
mod tests;
