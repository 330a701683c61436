//! The power tree: anything with a limit, from the utility feed to the node.

use crate::quantity::Watts;
use serde::{Deserialize, Serialize};

/// What a power node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerNodeKind {
    /// Connection to the grid.
    UtilityFeed,
    /// Transformer.
    Transformer,
    /// Uninterruptible power supply.
    Ups,
    /// Busway.
    Busway,
    /// Power distribution unit.
    Pdu,
    /// Breaker.
    Breaker,
    /// A rack's own limit.
    Rack,
    /// A node's own limit.
    Node,
}

/// Anything in the power tree with a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerNode {
    /// Name, unique in the tree.
    pub id: String,
    /// What it is.
    pub kind: PowerNodeKind,
    /// What feeds it; none at a root, two where feeds are redundant (each must
    /// be able to carry all).
    pub parents: Vec<usize>,
    /// What the equipment bears without tripping.
    pub rating: Watts,
    /// What may be drawn; at most the rating.
    pub limit: Watts,
}

/// All power nodes. Parents stand before their children, so one pass forward
/// or backward visits the tree in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PowerTree {
    nodes: Vec<PowerNode>,
}

impl PowerTree {
    /// Adds a node below nodes already there; its index, or `None` when a
    /// parent is not there yet.
    pub fn push(&mut self, node: PowerNode) -> Option<usize> {
        let index = self.nodes.len();
        if node.parents.iter().any(|p| *p >= index) {
            return None;
        }
        self.nodes.push(node);
        Some(index)
    }
    /// The nodes, parents first.
    pub fn nodes(&self) -> &[PowerNode] {
        &self.nodes
    }
    /// A node by its name.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == id)
    }
    /// A node and everything that feeds it, each once, nearest first.
    pub fn path_up(&self, from: usize) -> Vec<usize> {
        let mut path = vec![from];
        let mut next = 0;
        while next < path.len() {
            for parent in &self.nodes[path[next]].parents {
                if !path.contains(parent) {
                    path.push(*parent);
                }
            }
            next += 1;
        }
        path
    }
    /// Whether no node has two feeds.
    pub fn is_tree(&self) -> bool {
        self.nodes.iter().all(|n| n.parents.len() <= 1)
    }
}
