//! Which limits stand above which device, as dense arrays: what changes only
//! when the site does.
//!
//! A **row** is a limit: first the power nodes, then the contracts. A **point**
//! is a place where devices hang: all devices of a point stand below the same
//! rows. Most points are power nodes; a device that a contract names by itself
//! gets one of its own.

use super::problem::Problem;
use std::collections::HashMap;

/// No row.
pub(super) const NONE: u32 = u32::MAX;

/// The limits above every device.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// How many rows there are.
    pub count: usize,
    /// The point of each device.
    pub point: Vec<u32>,
    /// Where each point's rows begin in `list`.
    start: Vec<u32>,
    /// Rows above each point, those that cover fewest devices first.
    list: Vec<u32>,
    /// Nested rows as a forest.
    pub tree: Tree,
}

/// Rows nested in one another, in an order in which whatever stands below a
/// row follows it directly. Place 0 is no limit but what stands above all.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// The row at each place; [`NONE`] at place 0.
    pub row: Vec<u32>,
    /// The place of each row; [`NONE`] for a loose one.
    pub place: Vec<u32>,
    /// What stands above each place.
    pub up: Vec<u32>,
    /// Where what stands below each place ends.
    pub end: Vec<u32>,
    /// Steps to place 0.
    pub depth: Vec<u32>,
    /// The place of the deepest nested row above each point.
    pub home: Vec<u32>,
    /// Rows that cut across the others and are left out of the forest.
    pub loose: Vec<u32>,
}

impl Rows {
    /// Of a valid problem.
    pub fn new(problem: &Problem) -> Self {
        let chains = chains(problem);
        let (point, chains) = points(problem, chains);
        let count = problem.nodes.len() + problem.contracts.len();
        let mut devices = vec![0u32; chains.len()];
        for point in &point {
            devices[*point as usize] += 1;
        }
        let mut covered = vec![0u32; count];
        for (chain, devices) in chains.iter().zip(&devices) {
            for row in chain {
                covered[*row as usize] += devices;
            }
        }
        let mut start = Vec::with_capacity(chains.len() + 1);
        let mut list = Vec::new();
        start.push(0);
        for mut chain in chains {
            // Of two rows above the same devices, the deeper node has the larger number.
            chain.sort_unstable_by_key(|r| (covered[*r as usize], u32::MAX - r));
            list.extend_from_slice(&chain);
            start.push(list.len() as u32);
        }
        let used: Vec<&[u32]> = (0..devices.len())
            .filter(|p| devices[*p] > 0)
            .map(|p| &list[start[p] as usize..start[p + 1] as usize])
            .collect();
        let (next, loose) = nested(problem, count, &used);
        let mut tree = Tree::new(&next, loose);
        tree.home = (0..devices.len())
            .map(|p| tree.place_of(&list[start[p] as usize..start[p + 1] as usize]))
            .collect();
        tree.finish();
        Self {
            count,
            point,
            start,
            list,
            tree,
        }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.start.len() - 1
    }

    /// The rows above a point.
    pub fn above(&self, point: u32) -> &[u32] {
        let at = point as usize;
        &self.list[self.start[at] as usize..self.start[at + 1] as usize]
    }
}

/// The rows above each power node, contracts that name one of them included.
fn chains(problem: &Problem) -> Vec<Vec<u32>> {
    let nodes = problem.nodes.len();
    let mut named: Vec<Vec<u32>> = vec![Vec::new(); nodes];
    for (place, contract) in problem.contracts.iter().enumerate() {
        for node in &contract.nodes {
            named[*node].push((nodes + place) as u32);
        }
    }
    let mut chains: Vec<Vec<u32>> = Vec::with_capacity(nodes);
    for (place, node) in problem.nodes.iter().enumerate() {
        let mut chain = vec![place as u32];
        let inherited = node.parents.iter().flat_map(|p| &chains[*p]);
        for row in inherited.chain(&named[place]) {
            if !chain.contains(row) {
                chain.push(*row);
            }
        }
        chains.push(chain);
    }
    chains
}

/// The point of every device, and the rows above every point.
fn points(problem: &Problem, mut chains: Vec<Vec<u32>>) -> (Vec<u32>, Vec<Vec<u32>>) {
    let nodes = problem.nodes.len();
    let mut point: Vec<u32> = problem.devices.iter().map(|d| d.node as u32).collect();
    let mut named: HashMap<usize, Vec<u32>> = HashMap::new();
    for (place, contract) in problem.contracts.iter().enumerate() {
        for device in &contract.devices {
            let row = (nodes + place) as u32;
            let extra = named.entry(*device).or_default();
            if !extra.contains(&row) && !chains[problem.devices[*device].node].contains(&row) {
                extra.push(row);
            }
        }
    }
    let mut by_chain: HashMap<(usize, Vec<u32>), u32> = HashMap::new();
    let mut named: Vec<(usize, Vec<u32>)> = named.into_iter().collect();
    named.sort_unstable();
    for (device, extra) in named.into_iter().filter(|(_, e)| !e.is_empty()) {
        let node = problem.devices[device].node;
        point[device] = *by_chain
            .entry((node, extra))
            .or_insert_with_key(|(_, extra)| {
                let mut chain = chains[node].clone();
                chain.extend_from_slice(extra);
                chains.push(chain);
                (chains.len() - 1) as u32
            });
    }
    (point, chains)
}

/// For each row the next larger one around it, and the rows that cut across.
///
/// Rows form a forest when every row has the same next one in whatever chain
/// it stands. Where they do not, contracts and second parents are left out.
fn nested(problem: &Problem, count: usize, chains: &[&[u32]]) -> (Vec<Option<u32>>, Vec<u32>) {
    if let Some(next) = successors(count, chains.iter().copied()) {
        return (next, Vec::new());
    }
    let mut on_spine = vec![false; count];
    let mut spine_up: Vec<Option<u32>> = vec![None; count];
    for (place, node) in problem.nodes.iter().enumerate() {
        on_spine[place] = true;
        spine_up[place] = node.parents.first().map(|p| *p as u32);
    }
    // A node that is only ever a second parent stands on no spine.
    let mut seen = vec![false; count];
    for chain in chains {
        let mut at = (chain.iter().copied().filter(|r| on_spine[*r as usize])).max();
        while let Some(row) = at {
            if std::mem::replace(&mut seen[row as usize], true) {
                break;
            }
            at = spine_up[row as usize];
        }
    }
    let mut used = vec![false; count];
    for row in chains.iter().flat_map(|c| c.iter()) {
        used[*row as usize] = true;
    }
    let loose = (0..count as u32)
        .filter(|r| used[*r as usize] && !seen[*r as usize])
        .collect();
    let next = (spine_up.into_iter().zip(seen))
        .map(|(up, seen)| if seen { up } else { None })
        .collect();
    (next, loose)
}

/// `None` when some row has two different next ones.
fn successors<'a>(
    count: usize,
    chains: impl Iterator<Item = &'a [u32]>,
) -> Option<Vec<Option<u32>>> {
    let mut next: Vec<Option<Option<u32>>> = vec![None; count];
    for chain in chains {
        for (at, row) in chain.iter().enumerate() {
            let after = chain.get(at + 1).copied();
            match next[*row as usize] {
                None => next[*row as usize] = Some(after),
                Some(before) if before != after => return None,
                Some(_) => {}
            }
        }
    }
    Some(next.into_iter().map(Option::flatten).collect())
}

impl Tree {
    fn new(next: &[Option<u32>], loose: Vec<u32>) -> Self {
        let count = next.len();
        let mut below: Vec<Vec<u32>> = vec![Vec::new(); count + 1];
        let mut cut = vec![false; count];
        for row in &loose {
            cut[*row as usize] = true;
        }
        for row in (0..count).rev().filter(|r| !cut[*r]) {
            below[next[row].map_or(count, |n| n as usize)].push(row as u32);
        }
        let mut tree = Self {
            row: vec![NONE],
            place: vec![NONE; count],
            up: vec![0],
            end: Vec::new(),
            depth: vec![0],
            home: Vec::new(),
            loose,
        };
        let mut waiting: Vec<(u32, u32)> = below[count].iter().map(|r| (*r, 0)).collect();
        while let Some((row, up)) = waiting.pop() {
            let place = tree.row.len() as u32;
            tree.row.push(row);
            tree.place[row as usize] = place;
            tree.up.push(up);
            tree.depth.push(tree.depth[up as usize] + 1);
            waiting.extend(below[row as usize].iter().map(|r| (*r, place)));
        }
        tree
    }

    /// The deepest place among the rows of a chain.
    fn place_of(&self, chain: &[u32]) -> u32 {
        let places = chain.iter().map(|r| self.place[*r as usize]);
        places
            .filter(|p| *p != NONE)
            .max_by_key(|p| self.depth[*p as usize])
            .unwrap_or(0)
    }

    fn finish(&mut self) {
        let mut end: Vec<u32> = (1..=self.row.len() as u32).collect();
        for place in (1..end.len()).rev() {
            let up = self.up[place] as usize;
            end[up] = end[up].max(end[place]);
        }
        self.end = end;
    }

    /// The deepest place that stands at or above both.
    pub fn meet(&self, mut a: u32, mut b: u32) -> u32 {
        while a != b {
            if self.depth[a as usize] >= self.depth[b as usize] {
                a = self.up[a as usize];
            } else {
                b = self.up[b as usize];
            }
        }
        a
    }
}
