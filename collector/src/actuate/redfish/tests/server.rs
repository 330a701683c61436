//! A management controller in this process: a tree of resources with sessions,
//! etags, changes as DSP0266 has them, and faults on order.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

pub const USER: &str = "ops";
pub const PASSWORD: &str = "hunter2";

/// Something that goes wrong once.
pub struct Fault {
    pub method: &'static str,
    /// Part of the path.
    pub at: &'static str,
    pub answer: Answer,
}

pub enum Answer {
    Status(u16, &'static str),
    Body(Vec<u8>),
}

/// What the controller does with a change beyond taking it.
type Whim = Box<dyn Fn(&mut Value) + Send>;

#[derive(Default)]
pub struct Tree {
    pub resources: BTreeMap<String, Value>,
    pub faults: Vec<Fault>,
    /// Method, path and body of each request after the login.
    pub log: Vec<(String, String, String)>,
    pub etags: bool,
    /// No SessionService: user and password with every request.
    pub basic: bool,
    pub sessions: Vec<String>,
    pub logins: usize,
    /// Logins with a wrong name or password.
    pub refused: usize,
    pub read_only: bool,
    pub connections: usize,
    /// Closes each connection after an answer, without a word.
    pub closes: bool,
    pub whim: Option<Whim>,
    /// Hangs up on everybody without an answer.
    pub silent: bool,
    versions: BTreeMap<String, u64>,
}

impl Tree {
    /// The changes that came.
    pub fn patches(&self) -> Vec<(String, Value)> {
        let patches = self.log.iter().filter(|(method, _, _)| method == "PATCH");
        patches
            .map(|(_, path, body)| (path.clone(), serde_json::from_str(body).unwrap()))
            .collect()
    }

    /// Changed by somebody else.
    pub fn touch(&mut self, path: &str, at: &str, value: Value) {
        *self
            .resources
            .get_mut(path)
            .unwrap()
            .pointer_mut(at)
            .unwrap() = value;
        *self.versions.entry(path.to_owned()).or_default() += 1;
    }

    fn etag(&self, path: &str) -> String {
        format!("W/\"{}\"", self.versions.get(path).copied().unwrap_or(0))
    }
}

pub struct Server {
    pub base: String,
    pub tree: Arc<Mutex<Tree>>,
}

impl Server {
    pub fn start(tree: Tree) -> Self {
        Self::listen(tree, None)
    }

    /// The same within TLS, with the certificate in `tests/data/tls`.
    pub fn start_tls(tree: Tree) -> Self {
        let certificate = CertificateDer::from_pem_file(tls_file("bmc.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(tls_file("bmc.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::listen(tree, Some(Arc::new(config)))
    }

    fn listen(tree: Tree, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", listener.local_addr().unwrap());
        let tree = Arc::new(Mutex::new(tree));
        let served = Arc::clone(&tree);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, tls, served) = (stream.unwrap(), tls.clone(), Arc::clone(&served));
                served.lock().unwrap().connections += 1;
                std::thread::spawn(move || match tls {
                    None => serve_all(stream, &served),
                    Some(config) => {
                        let session = rustls::ServerConnection::new(config).unwrap();
                        serve_all(rustls::StreamOwned::new(session, stream), &served)
                    }
                });
            }
        });
        Self { base, tree }
    }

    pub fn edit<T>(&self, work: impl FnOnce(&mut Tree) -> T) -> T {
        work(&mut self.tree.lock().unwrap())
    }
}

pub fn tls_file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tls")
        .join(name)
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {}

/// Requests of one connection, until the other side has no more or this one has had enough.
fn serve_all(stream: impl Stream, tree: &Mutex<Tree>) {
    let mut reader = BufReader::new(stream);
    while serve(&mut reader, tree).is_ok_and(|more| more) {
        if tree.lock().unwrap().closes {
            return;
        }
    }
}

fn serve(reader: &mut BufReader<impl Stream>, tree: &Mutex<Tree>) -> std::io::Result<bool> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(false);
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    if tree.lock().unwrap().silent {
        return Ok(false);
    }
    let (status, extra, answer) = respond(&mut tree.lock().unwrap(), method, path, &headers, &body);
    let mut text = format!("HTTP/1.1 {status} X\r\n");
    text += &format!("Content-Length: {}\r\n{extra}\r\n", answer.len());
    let mut bytes = text.into_bytes();
    bytes.extend(answer);
    let stream = reader.get_mut();
    stream.write_all(&bytes)?;
    stream.flush()?;
    Ok(true)
}

type Reply = (u16, String, Vec<u8>);

fn bare(status: u16) -> Reply {
    (status, String::new(), Vec::new())
}

fn respond(
    tree: &mut Tree,
    method: &str,
    path: &str,
    headers: &BTreeMap<String, String>,
    body: &str,
) -> Reply {
    if method == "POST" && path == "/redfish/v1/SessionService/Sessions" {
        return log_in(tree, body);
    }
    if !let_in(tree, headers) {
        return bare(401);
    }
    tree.log
        .push((method.to_owned(), path.to_owned(), body.to_owned()));
    let fault = (tree.faults.iter()).position(|f| f.method == method && path.contains(f.at));
    if let Some(fault) = fault {
        return match tree.faults.remove(fault).answer {
            Answer::Status(status, headers) => (status, headers.to_owned(), Vec::new()),
            Answer::Body(body) => (200, String::new(), body),
        };
    }
    let path = path.trim_end_matches('/').to_owned();
    if method == "DELETE" {
        let before = tree.sessions.len();
        tree.sessions.retain(|s| !path.ends_with(s.as_str()));
        return bare(if tree.sessions.len() < before {
            204
        } else {
            404
        });
    }
    if !tree.resources.contains_key(&path) {
        return bare(404);
    }
    let etag = tree.etag(&path);
    if method == "GET" {
        let header = if tree.etags {
            format!("ETag: {etag}\r\n")
        } else {
            String::new()
        };
        return (200, header, tree.resources[&path].to_string().into_bytes());
    }
    if tree.read_only {
        return bare(405);
    }
    if tree.etags && headers.get("if-match") != Some(&etag) {
        return bare(412);
    }
    let change: Value = serde_json::from_str(body).unwrap();
    let resource = tree.resources.get_mut(&path).unwrap();
    merge(resource, &change);
    if let Some(whim) = &tree.whim {
        whim(resource);
    }
    *tree.versions.entry(path).or_default() += 1;
    bare(204)
}

fn log_in(tree: &mut Tree, body: &str) -> Reply {
    if tree.basic {
        return bare(404);
    }
    let body: Value = serde_json::from_str(body).unwrap();
    if body != json!({"UserName": USER, "Password": PASSWORD}) {
        tree.refused += 1;
        return bare(401);
    }
    tree.logins += 1;
    let token = format!("token{}", tree.logins);
    tree.sessions.push(token.clone());
    let headers = format!(
        "X-Auth-Token: {token}\r\nLocation: /redfish/v1/SessionService/Sessions/{token}\r\n"
    );
    (201, headers, b"{}".to_vec())
}

fn let_in(tree: &Tree, headers: &BTreeMap<String, String>) -> bool {
    if tree.basic {
        // Of `ops:hunter2`, by `printf ops:hunter2 | base64`.
        return headers.get("authorization").map(String::as_str) == Some("Basic b3BzOmh1bnRlcjI=");
    }
    (headers.get("x-auth-token")).is_some_and(|token| tree.sessions.contains(token))
}

/// A change: objects by member, arrays by place, all else replaced.
fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(change)) => {
            for (into, change) in into.iter_mut().zip(change) {
                merge(into, change);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

/// Four GPUs as an HGX board tells them, and a node limit by a control that is off.
pub fn hgx() -> Tree {
    let mut tree = Tree {
        etags: true,
        ..Tree::default()
    };
    let mut put = |path: &str, value: Value| {
        let mut value = value;
        value["@odata.id"] = json!(path);
        tree.resources.insert(path.to_owned(), value);
    };
    let list = |paths: &[String]| {
        let members: Vec<Value> = paths.iter().map(|p| json!({"@odata.id": p})).collect();
        json!({"Members": members})
    };
    let board = "/redfish/v1/Systems/HGX_Baseboard_0";
    put("/redfish/v1/Systems", list(&[board.to_owned()]));
    let processors = format!("{board}/Processors");
    put(
        board,
        json!({"Id": "HGX_Baseboard_0", "UUID": "11111111-2222-3333-4444-555555555555",
               "Manufacturer": "NVIDIA", "Model": "HGX", "Processors": {"@odata.id": processors}}),
    );
    // A CPU first, the GPUs out of order, and one that is listed and not there.
    let names = [
        "CPU_0",
        "GPU_SXM_2",
        "GPU_SXM_10",
        "GPU_SXM_1",
        "GPU_SXM_3",
        "GPU_SXM_9",
    ];
    let paths: Vec<String> = names.iter().map(|n| format!("{processors}/{n}")).collect();
    put(&processors, list(&paths));
    put(&paths[0], json!({"Id": "CPU_0", "ProcessorType": "CPU"}));
    for (path, name) in paths.iter().zip(names).skip(1).take(4) {
        let metrics = format!("{path}/EnvironmentMetrics");
        let number = name.rsplit('_').next().unwrap();
        put(
            path,
            json!({"Id": name, "ProcessorType": "GPU", "Manufacturer": "NVIDIA", "Model": "H200",
                   "UUID": format!("aaaaaaaa-0000-0000-0000-{number:0>12}"),
                   "EnvironmentMetrics": {"@odata.id": metrics}}),
        );
        put(
            &metrics,
            json!({"PowerWatts": {"Reading": 312.5}, "PowerLimitWatts": {
                "SetPoint": 700, "DefaultSetPoint": 700, "AllowableMin": 200, "AllowableMax": 700,
                "ControlMode": "Automatic"}}),
        );
    }
    let chassis = "/redfish/v1/Chassis/Node0";
    put("/redfish/v1/Chassis", list(&[chassis.to_owned()]));
    let controls = format!("{chassis}/Controls");
    put(
        chassis,
        json!({"Id": "Node0", "Links": {"ComputerSystems": [{"@odata.id": board}]},
               "Controls": {"@odata.id": controls}}),
    );
    let limit = format!("{controls}/NodePowerLimit");
    put(&controls, list(std::slice::from_ref(&limit)));
    put(
        &limit,
        json!({"Id": "NodePowerLimit", "ControlType": "Power", "PhysicalContext": "Chassis",
               "ControlMode": "Disabled", "SetPoint": 0, "SetPointUnits": "W",
               "SettingRangeMin": 764, "SettingRangeMax": 2754}),
    );
    tree
}
