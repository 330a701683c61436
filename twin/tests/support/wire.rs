//! A stretch of network between somebody and the broker.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A stretch of network that can be cut, and led elsewhere.
pub struct Wire {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(Some(target))),
            connections: Arc::default(),
        };
        let (target, connections) = (Arc::clone(&wire.target), Arc::clone(&wire.connections));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let Some(target) = *target.lock().unwrap() else {
                    continue;
                };
                connections.lock().unwrap().spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        wire
    }

    pub fn cut(&self) {
        *self.target.lock().unwrap() = None;
        self.connections.lock().unwrap().abort_all();
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.cut();
        *self.target.lock().unwrap() = Some(target);
    }
}
