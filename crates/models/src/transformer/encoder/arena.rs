//! Memory that the threads of a group write at the same time, each its own part.
//!
//! The borrow checker can't see the division of labour, so it is a rule instead, which every use in `forward` and
//! `attention` keeps: *between two barriers, a number is written by one member at most, and read by nobody else then*.

use std::marker::PhantomData;

use super::super::kernels::layout::Tiles;
use super::super::kernels::{LANES, RowScale};

/// 64 bytes: a line of the caches, and the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Types of which zero bytes are a value and that need no dropping.
pub(super) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for u32 {}
impl Plain for RowScale {}

/// A growing array of numbers on lines of the caches, zero at first.
pub(super) struct Shared<T> {
    lines: Vec<Line>,
    pointer: *mut T,
    count: usize,
    numbers: PhantomData<T>,
}

// SAFETY: it owns its memory and holds plain numbers; all access to them is `unsafe` and has the rule above.
unsafe impl<T: Plain> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Shared<T> {}

impl<T: Plain> Default for Shared<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), pointer: std::ptr::NonNull::dangling().as_ptr(), count: 0, numbers: PhantomData }
    }
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("count", &self.count).finish()
    }
}

impl<T: Plain> Shared<T> {
    /// Makes room for `count` numbers; what was there may be lost.
    pub(super) fn reserve(&mut self, count: usize) {
        if count > self.count {
            let lines = (count * size_of::<T>()).div_ceil(size_of::<Line>());
            self.lines.clear();
            self.lines.resize(lines, Line([0; 64]));
            self.pointer = self.lines.as_mut_ptr().cast();
            self.count = lines * size_of::<Line>() / size_of::<T>();
        }
    }

    /// `length` numbers from `start` on.
    ///
    /// # Safety
    /// Nobody writes them while they are borrowed.
    pub(super) unsafe fn get(&self, start: usize, length: usize) -> &[T] {
        assert!(start + length <= self.count, "{start} + {length} of {}", self.count);
        // SAFETY: in bounds; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts(self.pointer.add(start), length) }
    }

    /// `length` numbers from `start` on, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes them while they are borrowed.
    #[expect(clippy::mut_from_ref, reason = "the rule at the head of the module takes the place of the borrow checker")]
    pub(super) unsafe fn get_mut(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start + length <= self.count, "{start} + {length} of {}", self.count);
        // SAFETY: in bounds; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// The address of number `start`, behind which there are at least `length` numbers.
    pub(super) fn pointer(&self, start: usize, length: usize) -> *mut T {
        assert!(start + length <= self.count, "{start} + {length} of {}", self.count);
        // In bounds of one allocation, by the line above.
        self.pointer.wrapping_add(start)
    }
}

/// Rows of numbers, each `width` long.
#[derive(Debug, Default)]
pub(super) struct Table {
    numbers: Shared<f32>,
    width: usize,
}

impl Table {
    /// Makes room for `rows` rows of `width` numbers.
    pub(super) fn reserve(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.numbers.reserve(rows * width);
    }

    /// Numbers from one row to the next.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The first `length` numbers of a row.
    ///
    /// # Safety
    /// As [`Shared::get`].
    pub(super) unsafe fn row(&self, row: usize, length: usize) -> &[f32] {
        // SAFETY: handed on.
        unsafe { self.numbers.get(row * self.width, length) }
    }

    /// The first `length` numbers of a row, to be written.
    ///
    /// # Safety
    /// As [`Shared::get_mut`].
    #[expect(clippy::mut_from_ref, reason = "the rule at the head of the module takes the place of the borrow checker")]
    pub(super) unsafe fn row_mut(&self, row: usize, length: usize) -> &mut [f32] {
        // SAFETY: handed on.
        unsafe { self.numbers.get_mut(row * self.width, length) }
    }

    /// The first `length` numbers of `rows` rows, with all that is between them.
    ///
    /// # Safety
    /// As [`Shared::get`].
    pub(super) unsafe fn rows(&self, row: usize, rows: usize, length: usize) -> &[f32] {
        // SAFETY: handed on.
        unsafe { self.numbers.get(row * self.width, (rows - 1) * self.width + length) }
    }

    /// The address of a number, behind which there are `rows` rows of `columns` columns.
    pub(super) fn pointer(&self, row: usize, column: usize, rows: usize, columns: usize) -> *mut f32 {
        assert!(column + columns <= self.width);
        self.numbers.pointer(row * self.width + column, (rows - 1) * self.width + columns)
    }
}

/// Rows as operands of a product: in lanes, cut into tiles, with their scales.
#[derive(Debug, Default)]
pub(super) struct Operand {
    lanes: Shared<u32>,
    scales: Shared<RowScale>,
    /// Lanes of a row, whole blocks.
    width: usize,
}

impl Operand {
    /// Makes room for `rows` rows of `width` lanes, a multiple of [`LANES`].
    pub(super) fn reserve(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.lanes.reserve(rows * width);
        self.scales.reserve(rows);
    }

    /// Lanes of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Puts a row where the tiles have it.
    ///
    /// # Safety
    /// Nobody else reads or writes that row at the time.
    pub(super) unsafe fn put(&self, tiles: &Tiles, row: usize, lanes: &[u32], scale: RowScale) {
        let (first, height) = tiles.tile_of(row);
        let start = first * self.width + (row - first) * LANES;
        for (block, lanes) in lanes[..self.width].as_chunks::<LANES>().0.iter().enumerate() {
            // SAFETY: blocks of different rows are apart; the caller vouches for this row.
            unsafe { self.lanes.get_mut(start + block * height * LANES, LANES) }.copy_from_slice(lanes);
        }
        // SAFETY: handed on.
        let scales = unsafe { self.scales.get_mut(row, 1) };
        scales[0] = scale;
    }

    /// The tile that begins with row `first` and has `height` rows, and its scales.
    pub(super) fn tile(&self, first: usize, height: usize) -> (*const u32, *const RowScale) {
        let lanes = self.lanes.pointer(first * self.width, height * self.width);
        (lanes.cast_const(), self.scales.pointer(first, height).cast_const())
    }
}
