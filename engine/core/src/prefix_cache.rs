//! The prefix cache's names: a chained, keyed hash over full blocks, and the index from a name to its block.
//!
//! The 32-byte chain value of a block is BLAKE3 of its token ids, keyed with the chain value of the block before;
//! the first is keyed with the core's secret and covers the cache seed (model, adapter, weight version). A block's
//! name is the first 128 bits of its chain value. Who owns a block and when it may go is the pool's business.

use rustc_hash::FxHashMap;

use crate::BLOCK_SIZE;

/// A full block's name: equal for equal tokens after equal beginnings under one cache seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockName(u128);

/// The hash after some number of full blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain([u8; 32]);

impl Chain {
    /// Before the first block.
    pub(crate) fn root(secret: &[u8; 32], cache_seed: u64) -> Self {
        Self(*blake3::keyed_hash(secret, &cache_seed.to_le_bytes()).as_bytes())
    }

    /// Extends the chain by one full block of token ids and returns the block's name.
    pub(crate) fn extend(&mut self, tokens: &[u32]) -> BlockName {
        let mut bytes = [0_u8; 4 * BLOCK_SIZE as usize];
        for (cell, token) in bytes.chunks_exact_mut(4).zip(tokens) {
            cell.copy_from_slice(&token.to_le_bytes());
        }
        self.0 = *blake3::keyed_hash(&self.0, &bytes).as_bytes();
        let mut name = [0_u8; 16];
        name.copy_from_slice(&self.0[..16]);
        BlockName(u128::from_le_bytes(name))
    }
}

/// From names to block ids.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    blocks: FxHashMap<BlockName, u32>,
}

impl PrefixIndex {
    /// Room for `capacity` names without ever allocating again: at most half full, the map only rehashes in place.
    pub(crate) fn new(capacity: u32) -> Self {
        let mut blocks = FxHashMap::default();
        blocks.reserve(2 * capacity as usize);
        Self { blocks }
    }

    pub(crate) fn get(&self, name: BlockName) -> Option<u32> {
        self.blocks.get(&name).copied()
    }

    pub(crate) fn insert(&mut self, name: BlockName, block: u32) {
        self.blocks.insert(name, block);
    }

    pub(crate) fn remove(&mut self, name: BlockName) -> Option<u32> {
        self.blocks.remove(&name)
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn names(seed: u64, blocks: &[[u32; 16]]) -> Vec<BlockName> {
        let mut chain = Chain::root(&SECRET, seed);
        blocks.iter().map(|tokens| chain.extend(tokens)).collect()
    }

    #[test]
    fn a_name_depends_on_everything_before_it() {
        let (a, b) = ([1; 16], [2; 16]);
        let first = names(0, &[a, a]);
        assert_ne!(first[0], first[1], "equal tokens at other places");
        assert_ne!(names(0, &[b, a])[1], first[1], "another beginning");
        assert_ne!(names(1, &[a, a]), first, "another cache seed");
        assert_eq!(names(0, &[a, a]), first);
    }

    #[test]
    fn a_name_depends_on_each_of_the_sixteen_ids() {
        let base = names(0, &[[5; 16]])[0];
        for place in 0..16 {
            let mut tokens = [5; 16];
            tokens[place] = 6;
            assert_ne!(names(0, &[tokens])[0], base, "place {place}");
        }
    }

    #[test]
    fn another_secret_gives_other_names() {
        let mut chain = Chain::root(&[8; 32], 0);
        assert_ne!(chain.extend(&[1; 16]), names(0, &[[1; 16]])[0]);
    }
}
