//! A compiled mask on the device: lists of live 64 x 64 tiles, for queries and, transposed, for keys.

use super::Device;
use super::buffer::Block;
use crate::attention::Tiles;

const TILE: usize = 64;

/// A rule compiled for a batch.
pub struct CudaMask<D: Device> {
    pub(super) tiles: Tiles,
    pub(super) memory: Block<D>,
    pub(super) lists: Lists,
}

/// Places of the lists inside the mask's memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lists {
    /// key tiles of every query tile
    pub queries: List,
    /// query tiles of every key tile
    pub keys: List,
    /// one 64-bit word a query of a partial tile
    pub bits: u64,
    /// all sequences share one list
    pub shared: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct List {
    pub starts: u64,
    pub entries: u64,
}

/// The memory of a mask, little-endian as the device reads it.
pub(super) fn pack(tiles: &Tiles) -> (Vec<u8>, Lists) {
    let (q_tiles, k_tiles) = (tiles.q_len.div_ceil(TILE), tiles.k_len.div_ceil(TILE));
    let mut bits: Vec<u64> = vec![];
    let mut by_query: Vec<Vec<[i32; 2]>> = vec![];
    let mut by_key: Vec<Vec<[i32; 2]>> = vec![vec![]; tiles.distinct() * k_tiles];
    for b in 0..tiles.distinct() {
        for (q, tile) in tiles.of(b).iter().enumerate() {
            let mut partial = tile.partial.iter().peekable();
            let (mut live, mut col) = (vec![], 0);
            for run in &tile.runs {
                for at in (run.start..run.start + run.len).step_by(TILE) {
                    let words = partial.next_if(|(c, ..)| *c == col).map_or(-1, |(_, _, rows)| {
                        let index = (bits.len() / TILE) as i32;
                        bits.extend(rows);
                        bits.resize((index as usize + 1) * TILE, 0);
                        index
                    });
                    live.push([(at / TILE) as i32, words]);
                    by_key[b * k_tiles + at / TILE].push([q as i32, words]);
                    col += TILE.min(run.start + run.len - at);
                }
            }
            by_query.push(live);
        }
        debug_assert_eq!(tiles.of(b).len(), q_tiles);
    }
    let mut memory: Vec<u8> = bytemuck::cast_slice(&bits).to_vec();
    let mut list = |tiles: &[Vec<[i32; 2]>]| {
        let entries = memory.len() as u64;
        let mut starts = vec![0i32];
        for tile in tiles {
            memory.extend_from_slice(bytemuck::cast_slice(tile));
            starts.push(starts[starts.len() - 1] + tile.len() as i32);
        }
        let at = memory.len() as u64;
        memory.extend_from_slice(bytemuck::cast_slice(&starts));
        // the next list's pairs are read as 8 bytes
        memory.resize(memory.len().next_multiple_of(8), 0);
        List { starts: at, entries }
    };
    let (queries, keys) = (list(&by_query), list(&by_key));
    (memory, Lists { queries, keys, bits: 0, shared: tiles.distinct() == 1 })
}
