//! `[store]`: the engine of the time-series store. Absent, it is the embedded
//! one. Which fields an engine needs is held here, because it decides what is
//! allowed at all.

use super::fault::Sink;
use super::reader::{At, Field, Table};
use crate::site::store::StoreChoice;

/// The engines by the words that files use.
const ENGINES: [(&str, Engine); 3] = [
    ("embedded", Engine::Embedded),
    ("victoriametrics", Engine::Victoriametrics),
    ("influxdb2", Engine::Influxdb2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Embedded,
    Victoriametrics,
    Influxdb2,
}

/// The section as it was read. `choice` is `None` when a fault was noted.
#[derive(Debug)]
pub(crate) struct StoreSection {
    pub choice: Option<StoreChoice>,
}

impl StoreSection {
    /// Reads the section; `sink` is the table's own.
    pub(crate) fn read(mut t: Table<'_>, sink: &Sink) -> Self {
        let engine = t.require("engine").word(&ENGINES);
        let slots = ["url", "read_url", "token_env", "org", "bucket"].map(|key| t.optional(key));
        let paths = slots.each_ref().map(|slot| slot.path.clone());
        let places = (slots.each_ref()).map(|slot| slot.value.map(|value| value.span().start));
        let [url, read_url, token_env, org, bucket] = slots;
        let url = url.parsed(base_url);
        let read_url = read_url.parsed(base_url);
        let token_env = token_env.parsed(variable);
        let (org, bucket) = (org.text(), bucket.text());
        let at = t.at();
        t.finish();
        let Some(engine) = engine else {
            return Self { choice: None };
        };
        let (needed, allowed): (&[usize], &[usize]) = match engine.value {
            Engine::Embedded => (&[], &[]),
            Engine::Victoriametrics => (&[0], &[0, 1, 2]),
            Engine::Influxdb2 => (&[0, 2, 3, 4], &[0, 2, 3, 4]),
        };
        let word = (ENGINES.iter())
            .find(|(_, known)| *known == engine.value)
            .map_or("", |(word, _)| word);
        let mut sound = true;
        for (place, path) in paths.iter().enumerate() {
            let written = places.get(place).copied().flatten();
            if needed.contains(&place) && written.is_none() {
                sound = false;
                let key = path.rsplit('.').next().unwrap_or_default();
                sink.error(
                    at,
                    path,
                    format!("the engine `{word}` needs `{key}`"),
                    format!("add `{key}`; site-configs/README.md describes it"),
                );
            }
            if let Some(written) = written
                && !allowed.contains(&place)
            {
                sound = false;
                sink.error(
                    written,
                    path,
                    format!("`{path}` means nothing to the engine `{word}`"),
                    "remove it, or choose another engine",
                );
            }
        }
        if !sound {
            return Self { choice: None };
        }
        let text = |field: Field<String>| field.map(|At { value, .. }| value);
        let choice = match engine.value {
            Engine::Embedded => Some(StoreChoice::Embedded),
            Engine::Victoriametrics => text(url).map(|url| StoreChoice::Victoriametrics {
                url,
                read_url: text(read_url),
                token_env: text(token_env),
            }),
            Engine::Influxdb2 => (|| {
                Some(StoreChoice::Influxdb2 {
                    url: text(url)?,
                    org: text(org)?,
                    bucket: text(bucket)?,
                    token_env: text(token_env)?,
                })
            })(),
        };
        Self { choice }
    }
}

/// A base address without user, query or fragment, and no slash at its end.
fn base_url(text: &str) -> Result<String, (String, String)> {
    let remedy = "write it like http://127.0.0.1:8428";
    let refuse = |what: &str| Err((format!("`{text}` {what}"), remedy.to_owned()));
    if text.starts_with("https://") {
        return refuse(
            "asks for TLS, which the engines' clients do not speak; use a network of its own or a tunnel, and http://",
        );
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return refuse("is no base address");
    };
    if rest.contains('@') {
        return Err((
            format!("`{text}` holds a user or a password"),
            "name the environment variable that holds the token in `token_env`".to_owned(),
        ));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let has_host = !authority.is_empty() && !authority.starts_with(':');
    let sound = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]".contains(c);
    if !has_host || !rest.chars().all(sound) {
        return refuse("is no base address");
    }
    let port = match authority.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') && !host.ends_with(']') => None,
        Some((_, port)) => Some(port),
        None => None,
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return refuse("has a port that is no number up to 65535");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The name of an environment variable.
fn variable(text: &str) -> Result<String, (String, String)> {
    let sound = text.len() <= 64
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if sound {
        return Ok(text.to_owned());
    }
    // Not repeated: it may be the token itself.
    Err((
        "this is no name of an environment variable".to_owned(),
        "write the name of the variable that holds the token (A-Z, 0-9, _), never the token"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use crate::site::config::{LoadOptions, Loaded, builtin_demo, load};
    use crate::site::store::StoreChoice;

    fn with(section: &str) -> (Loaded, usize) {
        let demo = builtin_demo();
        let first = demo.matches('\n').count() + 1;
        let text = format!("{demo}{section}");
        (load("demo.toml", &text, LoadOptions::default()), first)
    }

    fn choice(section: &str) -> StoreChoice {
        let (loaded, _) = with(section);
        assert_eq!(loaded.faults, [], "{section}");
        loaded.site.unwrap().store
    }

    #[test]
    fn engines_are_chosen_and_the_embedded_one_needs_no_section() {
        assert_eq!(choice(""), StoreChoice::Embedded);
        assert_eq!(
            choice("[store]\nengine = \"embedded\"\n"),
            StoreChoice::Embedded
        );
        assert_eq!(
            choice(
                "[store]\nengine = \"victoriametrics\"\nurl = \"http://vminsert:8480/insert/0/prometheus/\"\nread_url = \"http://vmselect:8481/select/0/prometheus\"\n"
            ),
            StoreChoice::Victoriametrics {
                url: "http://vminsert:8480/insert/0/prometheus".to_owned(),
                read_url: Some("http://vmselect:8481/select/0/prometheus".to_owned()),
                token_env: None,
            }
        );
        assert_eq!(
            choice(
                "[store]\nengine = \"influxdb2\"\nurl = \"http://[::1]:8086\"\norg = \"o\"\nbucket = \"b\"\ntoken_env = \"INFLUX_TOKEN\"\n"
            ),
            StoreChoice::Influxdb2 {
                url: "http://[::1]:8086".to_owned(),
                org: "o".to_owned(),
                bucket: "b".to_owned(),
                token_env: "INFLUX_TOKEN".to_owned(),
            }
        );
    }

    #[test]
    fn faults_stand_on_their_line_with_a_remedy() {
        // Section, line within it (from 0), what the message says.
        let faulty = [
            ("[store]\n", 0, "has no `engine`"),
            ("[store]\nengine = \"prometheus\"\n", 1, "not known"),
            ("[store]\nengine = \"victoriametrics\"\n", 0, "needs `url`"),
            (
                "[store]\nengine = \"embedded\"\nurl = \"http://a:1\"\n",
                2,
                "means nothing",
            ),
            (
                "[store]\nengine = \"victoriametrics\"\nurl = \"http://a:1\"\nurll = 1\n",
                3,
                "unknown field `urll`",
            ),
            (
                "[store]\nengine = \"victoriametrics\"\nurl = \"https://a:1\"\n",
                2,
                "TLS",
            ),
            (
                "[store]\nengine = \"victoriametrics\"\nurl = \"http://a:99999\"\n",
                2,
                "port",
            ),
            (
                "[store]\nengine = \"victoriametrics\"\nurl = \"http://me:secret@a:1\"\n",
                2,
                "password",
            ),
            (
                "[store]\nengine = \"victoriametrics\"\nurl = \"http://a:1\"\ntoken_env = \"s3cret-token==\"\n",
                3,
                "no name of an environment variable",
            ),
            (
                "[store]\nengine = \"influxdb2\"\nurl = \"http://a:1\"\norg = \"o\"\nbucket = \"b\"\n",
                0,
                "needs `token_env`",
            ),
        ];
        for (section, line, message) in faulty {
            let (loaded, first) = with(section);
            assert!(loaded.site.is_none(), "{section}");
            let found = (loaded.faults.iter())
                .find(|f| f.line == first + line && f.message.contains(message));
            let found = found.unwrap_or_else(|| panic!("{section}: {:#?}", loaded.faults));
            assert!(!found.remedy.is_empty());
            assert!(!format!("{found}").contains("s3cret-token"), "{found}");
        }
    }
}
