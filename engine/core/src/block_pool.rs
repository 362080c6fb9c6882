//! The block pool: who may write a KV block, and which one goes next. It refuses to know requests and tokens.
//!
//! One flat array; every block is in exactly one place: free, cached (named, unused, least recently used first),
//! held (by one or more handles) or in limbo (unused, but a step in flight may still touch it). A block keeps its
//! name until it is handed out for writing again. `free + cached + held + limbo` is always the pool's size.

use crate::check::CheckError;
use crate::prefix_cache::{BlockName, PrefixIndex};

/// "No block" in list links.
const NONE: u32 = u32::MAX;

/// The right to use a block. It cannot be copied, and must go back through [`BlockPool::release`]: dropping it
/// anywhere else is a bug that debug builds stop at and [`BlockPool::check`] finds.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlockRef(u32);

impl BlockRef {
    pub(crate) const fn id(&self) -> u32 {
        self.0
    }
}

impl Drop for BlockRef {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking(),
            "block {} was dropped without going back to the pool",
            self.0
        );
    }
}

/// How many blocks are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Unused and unnamed.
    pub free: u32,
    /// Unused, but their content can be found by name.
    pub cached: u32,
    /// In use by requests.
    pub held: u32,
    /// Unused, but waiting for a step's fence.
    pub limbo: u32,
}

impl PoolCounts {
    /// All blocks.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.free + self.cached + self.held + self.limbo
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Cached,
    Held,
    Limbo,
}

#[derive(Clone, Debug)]
struct Block {
    prev: u32,
    next: u32,
    refs: u32,
    place: Place,
    name: Option<BlockName>,
    /// In limbo: the step whose fence sets it free.
    freed_at: u64,
}

/// A doubly linked list through the blocks; a block is in at most one.
#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    fn push_back(&mut self, blocks: &mut [Block], id: u32) {
        blocks[id as usize].prev = self.tail;
        blocks[id as usize].next = NONE;
        match self.tail {
            NONE => self.head = id,
            tail => blocks[tail as usize].next = id,
        }
        self.tail = id;
        self.len += 1;
    }

    fn remove(&mut self, blocks: &mut [Block], id: u32) {
        let (prev, next) = (blocks[id as usize].prev, blocks[id as usize].next);
        match prev {
            NONE => self.head = next,
            prev => blocks[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => blocks[next as usize].prev = prev,
        }
        self.len -= 1;
    }
}

#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: List,
    cached: List,
    limbo: List,
    held: u32,
    index: PrefixIndex,
    #[cfg(feature = "mutations")]
    pub(crate) mutation: Option<crate::Mutation>,
}

impl BlockPool {
    pub(crate) fn new(count: u32) -> Self {
        let block = Block {
            prev: NONE,
            next: NONE,
            refs: 0,
            place: Place::Free,
            name: None,
            freed_at: 0,
        };
        let mut blocks = vec![block; count as usize];
        let mut free = List::EMPTY;
        (0..count).for_each(|id| free.push_back(&mut blocks, id));
        Self {
            blocks,
            free,
            cached: List::EMPTY,
            limbo: List::EMPTY,
            held: 0,
            index: PrefixIndex::new(count),
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }

    /// Blocks that [`BlockPool::allocate`] can hand out now.
    pub(crate) const fn available(&self) -> u32 {
        self.free.len + self.cached.len
    }

    pub(crate) const fn counts(&self) -> PoolCounts {
        PoolCounts {
            free: self.free.len,
            cached: self.cached.len,
            held: self.held,
            limbo: self.limbo.len,
        }
    }

    /// A block to write: an unnamed one, else the least recently used cached one, which loses its name.
    pub(crate) fn allocate(&mut self) -> Option<BlockRef> {
        let id = if self.free.len > 0 {
            self.free.head
        } else {
            self.cached.head
        };
        if id == NONE {
            return None;
        }
        if let Some(name) = self.blocks[id as usize].name.take() {
            self.index.remove(name);
        }
        Some(self.hold(id))
    }

    /// The block of that name, wherever it is. It stays readable until the next `allocate` or `fence`.
    pub(crate) fn find(&self, name: BlockName) -> Option<u32> {
        self.index.get(name)
    }

    /// Whether holding a found block takes it from those that are [`BlockPool::available`].
    pub(crate) fn is_available(&self, id: u32) -> bool {
        matches!(self.blocks[id as usize].place, Place::Free | Place::Cached)
    }

    /// A handle for reading a block that [`BlockPool::find`] found. One in limbo qualifies: a step in flight can
    /// only read it, because a named block is full and is never written under its name.
    pub(crate) fn share(&mut self, id: u32) -> BlockRef {
        self.hold(id)
    }

    /// Names a full, committed block, unless an equal one is already known.
    pub(crate) fn name(&mut self, block: &BlockRef, name: BlockName) {
        let block_name = &mut self.blocks[block.0 as usize].name;
        if block_name.is_none() && self.index.get(name).is_none() {
            *block_name = Some(name);
            self.index.insert(name, block.0);
        }
    }

    /// Takes a name out of the cache; its block, if unused, becomes free.
    pub(crate) fn forget(&mut self, name: BlockName) {
        if let Some(id) = self.index.remove(name) {
            self.blocks[id as usize].name = None;
            if self.blocks[id as usize].place == Place::Cached {
                self.unlink(id);
                self.settle(id);
            }
        }
    }

    /// Takes every name out of the cache.
    pub(crate) fn forget_all(&mut self) {
        for id in 0..self.blocks.len() {
            if let Some(name) = self.blocks[id].name {
                self.forget(name);
            }
        }
    }

    /// Gives a handle back; `in_flight` is the last step that may still touch the block.
    pub(crate) fn release(&mut self, handle: BlockRef, in_flight: Option<u64>) {
        let id = handle.0;
        std::mem::forget(handle);
        let block = &mut self.blocks[id as usize];
        block.refs -= 1;
        if block.refs > 0 {
            return;
        }
        self.held -= 1;
        match in_flight {
            Some(step) if !mutated!(self, SkipBlockLimbo) => {
                block.place = Place::Limbo;
                block.freed_at = step;
                self.limbo.push_back(&mut self.blocks, id);
            }
            _ => self.settle(id),
        }
    }

    /// Every step up to `step` has left the device: what waited for them is reusable.
    pub(crate) fn fence(&mut self, step: u64) {
        while self.limbo.head != NONE && self.blocks[self.limbo.head as usize].freed_at <= step {
            let id = self.limbo.head;
            self.limbo.remove(&mut self.blocks, id);
            self.settle(id);
        }
    }

    /// Whether every block is in one place, lists agree with marks, and names agree with the index.
    /// `refs[id]` is how many handles of a block its owner can find.
    pub(crate) fn check(&self, refs: &[u32]) -> Result<(), CheckError> {
        if self.counts().total() as usize != self.blocks.len() {
            return Err(CheckError::Conservation {
                counts: self.counts(),
                total: self.blocks.len(),
            });
        }
        let mut seen = vec![0_u32; self.blocks.len()];
        let lists = [
            (self.free, Place::Free),
            (self.cached, Place::Cached),
            (self.limbo, Place::Limbo),
        ];
        for (list, place) in lists {
            let (mut id, mut len) = (list.head, 0);
            while id != NONE && len <= list.len {
                let block = &self.blocks[id as usize];
                seen[id as usize] += 1;
                if block.place != place || block.refs != 0 {
                    return Err(CheckError::Block {
                        id,
                        what: "is in a list that its mark denies",
                    });
                }
                (id, len) = (block.next, len + 1);
            }
            if len != list.len {
                return Err(CheckError::Block {
                    id: list.head,
                    what: "heads a list of the wrong length",
                });
            }
        }
        let mut named = 0;
        for ((id, block), (seen, refs)) in (0..).zip(&self.blocks).zip(seen.iter().zip(refs)) {
            let held = u32::from(block.place == Place::Held);
            if seen + held != 1 {
                return Err(CheckError::Block {
                    id,
                    what: "is not in exactly one place",
                });
            }
            if block.refs != *refs || (held == 1) != (*refs > 0) {
                return Err(CheckError::Block {
                    id,
                    what: "has another number of handles than its owners",
                });
            }
            if (block.place == Place::Free && block.name.is_some())
                || (block.place == Place::Cached && block.name.is_none())
            {
                return Err(CheckError::Block {
                    id,
                    what: "is free with a name, or cached without",
                });
            }
            if let Some(name) = block.name {
                named += 1;
                if self.index.get(name) != Some(id) {
                    return Err(CheckError::Block {
                        id,
                        what: "has a name that leads elsewhere",
                    });
                }
            }
        }
        if named != self.index.len() {
            return Err(CheckError::Block {
                id: NONE,
                what: "is named in the index but nowhere else",
            });
        }
        Ok(())
    }

    /// A second handle that nobody counted: the mistake that [`crate::Mutation::FreeTwiceOnAbort`] needs.
    #[cfg(feature = "mutations")]
    pub(crate) fn forge(block: &BlockRef) -> BlockRef {
        BlockRef(block.0)
    }

    fn hold(&mut self, id: u32) -> BlockRef {
        if self.blocks[id as usize].place != Place::Held {
            self.unlink(id);
            self.blocks[id as usize].place = Place::Held;
            self.held += 1;
        }
        self.blocks[id as usize].refs += 1;
        BlockRef(id)
    }

    fn unlink(&mut self, id: u32) {
        match self.blocks[id as usize].place {
            Place::Free => self.free.remove(&mut self.blocks, id),
            Place::Cached => self.cached.remove(&mut self.blocks, id),
            Place::Limbo => self.limbo.remove(&mut self.blocks, id),
            Place::Held => {}
        }
    }

    /// Puts an unused block where its name says.
    fn settle(&mut self, id: u32) {
        let (place, list) = match self.blocks[id as usize].name {
            Some(_) => (Place::Cached, &mut self.cached),
            None => (Place::Free, &mut self.free),
        };
        self.blocks[id as usize].place = place;
        list.push_back(&mut self.blocks, id);
    }
}

#[cfg(test)]
mod tests;
