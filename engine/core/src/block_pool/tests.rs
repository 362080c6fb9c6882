//! The pool's places, order of re-use, limbo and handles.

use super::*;
use crate::prefix_cache::Chain;

fn name(n: u32) -> BlockName {
    Chain::default().extend(&[n; 16])
}

fn take(pool: &mut BlockPool) -> BlockRef {
    pool.allocate().expect("a block is available")
}

#[test]
fn unnamed_blocks_go_first_then_the_least_recently_used() {
    let mut pool = BlockPool::new(3);
    let (a, b, c) = (take(&mut pool), take(&mut pool), take(&mut pool));
    let (id_a, id_b, id_c) = (a.id(), b.id(), c.id());
    pool.name(&a, name(1));
    pool.name(&b, name(2));
    pool.release(b, None);
    pool.release(a, None);
    pool.release(c, None);
    assert_eq!(
        pool.counts(),
        PoolCounts {
            free: 1,
            cached: 2,
            held: 0,
            limbo: 0
        }
    );
    let order: Vec<BlockRef> = (0..3).map(|_| take(&mut pool)).collect();
    assert_eq!(
        order.iter().map(BlockRef::id).collect::<Vec<_>>(),
        [id_c, id_b, id_a]
    );
    assert_eq!(pool.find(name(1)), None, "a re-used block loses its name");
    assert!(pool.allocate().is_none());
    order.into_iter().for_each(|block| pool.release(block, None));
    pool.check(&[0; 3]).expect("conserved");
}

#[test]
fn limbo_ends_with_the_fence_of_its_step() {
    let mut pool = BlockPool::new(1);
    let block = take(&mut pool);
    pool.release(block, Some(5));
    assert!(pool.allocate().is_none());
    pool.fence(4);
    assert!(pool.allocate().is_none());
    pool.fence(5);
    let block = take(&mut pool);
    pool.release(block, None);
}

#[test]
fn a_named_block_in_limbo_can_be_shared() {
    let mut pool = BlockPool::new(1);
    let block = take(&mut pool);
    pool.name(&block, name(1));
    pool.release(block, Some(1));
    let id = pool.find(name(1)).expect("still named");
    assert!(!pool.is_available(id));
    let block = pool.share(id);
    pool.fence(1);
    assert_eq!(pool.counts().held, 1);
    pool.check(&[1]).expect("conserved");
    pool.release(block, None);
    assert_eq!(pool.counts().cached, 1);
}

#[test]
fn forgetting_a_name_frees_its_unused_block() {
    let mut pool = BlockPool::new(2);
    let (a, b) = (take(&mut pool), take(&mut pool));
    pool.name(&a, name(1));
    pool.name(&b, name(2));
    pool.release(a, None);
    pool.forget(name(1));
    pool.forget(name(2));
    assert_eq!(
        pool.counts(),
        PoolCounts {
            free: 1,
            cached: 0,
            held: 1,
            limbo: 0
        }
    );
    pool.release(b, None);
    assert_eq!(pool.counts().free, 2);
    pool.check(&[0; 2]).expect("conserved");
}

#[test]
#[should_panic(expected = "dropped without going back")]
#[cfg(debug_assertions)]
fn a_dropped_handle_is_caught() {
    let mut pool = BlockPool::new(1);
    drop(pool.allocate());
}

#[test]
fn a_lost_handle_is_found_by_the_check() {
    let mut pool = BlockPool::new(1);
    std::mem::forget(pool.allocate());
    assert!(matches!(pool.check(&[0]), Err(CheckError::Block { id: 0, .. })));
}
