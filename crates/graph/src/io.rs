//! What an operator's kernel call sees: buffers with shapes, scratch memory, and the pool.

use std::cell::Cell;

use bytemuck::Pod;
use memwall_formats::Dtype;
use memwall_kernels::Pool;

use crate::shape::Sizes;

/// A tensor in one run.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(crate) ptr: *mut u8,
    pub(crate) sizes: Sizes,
    pub(crate) dtype: Dtype,
}

impl Slot {
    pub(crate) fn bytes(&self) -> usize {
        self.sizes.rows() * self.dtype.row_bytes(self.sizes.width()).unwrap_or(0)
    }
}

/// The tensors of one node in one run.
///
/// Memory of an output overlaps an input's only if the operator declares it, by
/// [`crate::Op::alias`] or [`crate::Op::in_place`]; such an operator reads that input through
/// [`Io::read_tile`] or through the output.
pub struct Io<'a> {
    pub(crate) inputs: &'a [Slot],
    pub(crate) outputs: &'a [Slot],
    pub(crate) scratch: (*mut u8, usize),
    pub(crate) pool: &'a Pool,
    pub(crate) taken: Cell<u32>,
}

// SAFETY: the pointers are to memory that the executor borrows exclusively for the run; `taken` is
// only touched by `output`, which tasks of the pool do not call.
unsafe impl Sync for Io<'_> {}

const SCRATCH: u32 = 1 << 31;

impl<'a> Io<'a> {
    /// The threads to run on.
    pub fn pool(&self) -> &'a Pool {
        self.pool
    }

    /// How many inputs.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Sizes of input `i`.
    pub fn in_sizes(&self, i: usize) -> Sizes {
        self.inputs[i].sizes
    }

    /// Sizes of output `i`.
    pub fn out_sizes(&self, i: usize) -> Sizes {
        self.outputs[i].sizes
    }

    /// Element type of input `i`.
    pub fn in_dtype(&self, i: usize) -> Dtype {
        self.inputs[i].dtype
    }

    /// Element type of output `i`.
    pub fn out_dtype(&self, i: usize) -> Dtype {
        self.outputs[i].dtype
    }

    /// The elements of input `i`.
    ///
    /// # Panics
    /// If the element type is another, or the input shares memory with an output already taken.
    pub fn input<T: Pod>(&self, i: usize) -> &'a [T] {
        let s = &self.inputs[i];
        check::<T>(s);
        debug_assert!(!self.overlaps_taken(s), "input {i} shares memory with an output in use");
        // SAFETY: the executor keeps the memory alive and, but for declared sharing, unchanged during the run;
        // slots are aligned to 64 bytes, views to their element.
        unsafe { std::slice::from_raw_parts(s.ptr.cast::<T>(), s.bytes() / size_of::<T>()) }
    }

    /// The bytes of input `i`, whatever its element type.
    pub fn in_bytes(&self, i: usize) -> &'a [u8] {
        let s = &self.inputs[i];
        debug_assert!(!self.overlaps_taken(s), "input {i} shares memory with an output in use");
        // SAFETY: as in `input`.
        unsafe { std::slice::from_raw_parts(s.ptr, s.bytes()) }
    }

    /// The elements of output `i`, to be written; of a state, the old ones.
    ///
    /// # Panics
    /// If the element type is another, or the output was taken before.
    pub fn output<T: Pod>(&self, i: usize) -> &'a mut [T] {
        let s = &self.outputs[i];
        check::<T>(s);
        self.take(1 << i);
        // SAFETY: outputs do not overlap each other (the planner's law), and each is handed out once.
        unsafe { std::slice::from_raw_parts_mut(s.ptr.cast::<T>(), s.bytes() / size_of::<T>()) }
    }

    /// The elements of output `output`, which begin as those of input `input`: its own memory or a copy.
    ///
    /// # Panics
    /// As [`Io::output`], or if the sizes differ.
    pub fn output_from<T: Pod>(&self, output: usize, input: usize) -> &'a mut [T] {
        let (from, to) = (&self.inputs[input], &self.outputs[output]);
        if from.ptr != to.ptr {
            let from = self.input::<T>(input);
            let to = self.output::<T>(output);
            to.copy_from_slice(from);
            return to;
        }
        assert_eq!(from.bytes(), to.bytes(), "an output in the memory of an input");
        self.output(output)
    }

    /// The bytes of output `i`, whatever its element type.
    ///
    /// # Panics
    /// If the output was taken before.
    pub fn out_bytes(&self, i: usize) -> &'a mut [u8] {
        let s = &self.outputs[i];
        self.take(1 << i);
        // SAFETY: as in `output`.
        unsafe { std::slice::from_raw_parts_mut(s.ptr, s.bytes()) }
    }

    /// Scratch memory, aligned to 64 bytes, of the size that the operator asked for.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn scratch(&self) -> &'a mut [u8] {
        self.take(SCRATCH);
        // SAFETY: the planner gives every node scratch memory of its own while it runs; handed out once.
        unsafe { std::slice::from_raw_parts_mut(self.scratch.0, self.scratch.1) }
    }

    /// Copies elements `from..` of input `i` to `tile`; allowed for inputs that share memory with an output.
    pub fn read_tile<T: Pod>(&self, i: usize, from: usize, tile: &mut [T]) {
        let s = &self.inputs[i];
        check::<T>(s);
        assert!((from + tile.len()) * size_of::<T>() <= s.bytes(), "tile inside the tensor");
        // SAFETY: bounds checked above; `tile` is memory of the caller's own.
        unsafe { std::ptr::copy_nonoverlapping(s.ptr.cast::<T>().add(from), tile.as_mut_ptr(), tile.len()) }
    }

    /// Copies `tile` to elements `from..` of output `i`; tasks write disjoint tiles.
    pub fn write_tile<T: Pod>(&self, i: usize, from: usize, tile: &[T]) {
        let s = &self.outputs[i];
        check::<T>(s);
        assert!((from + tile.len()) * size_of::<T>() <= s.bytes(), "tile inside the tensor");
        // SAFETY: bounds checked above; `tile` is memory of the caller's own.
        unsafe { std::ptr::copy_nonoverlapping(tile.as_ptr(), s.ptr.cast::<T>().add(from), tile.len()) }
    }

    fn take(&self, bit: u32) {
        let taken = self.taken.get();
        assert!(taken & bit == 0, "an output is handed out once");
        self.taken.set(taken | bit);
    }

    fn overlaps_taken(&self, s: &Slot) -> bool {
        let taken = self.taken.get();
        self.outputs.iter().enumerate().any(|(i, o)| {
            taken & (1 << i) != 0
                && o.bytes() > 0
                && s.bytes() > 0
                && (s.ptr as usize) < o.ptr as usize + o.bytes()
                && (o.ptr as usize) < s.ptr as usize + s.bytes()
        })
    }
}

fn check<T: Pod>(s: &Slot) {
    let size = s.dtype.block_bytes();
    assert!(
        !s.dtype.is_block() && size == size_of::<T>(),
        "{} is not read as elements of {} bytes",
        s.dtype,
        size_of::<T>()
    );
}

/// Runs `$body` with `$t` as the real type of `$dtype`: f32 or f64.
#[macro_export]
macro_rules! real {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            memwall_formats::Dtype::F64 => {
                type $t = f64;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
