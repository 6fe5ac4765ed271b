//! What outlives a run: weights and states, by name.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Pod;
use memwall_formats::Dtype;

use crate::GraphError;
use crate::shape::Type;

/// A weight or state in memory.
pub(crate) enum Storage {
    /// Memory of its own, writable.
    Owned(Slab),
    /// Bytes in somebody else's keeping (a mapped file, a model in the program), read-only.
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

struct Entry {
    name: Arc<str>,
    dtype: Dtype,
    storage: Storage,
}

/// Weights and states, shared by the graphs that name them: a training step, its optimizer, an evaluation.
#[derive(Default)]
pub struct Memory {
    entries: Vec<Entry>,
    names: HashMap<Arc<str>, usize>,
}

/// Owned bytes, aligned to 64, zero at first.
pub(crate) struct Slab {
    blocks: Vec<Block>,
    bytes: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Block([u8; 64]);
// SAFETY: 64 bytes without padding, any pattern is valid.
unsafe impl bytemuck::Zeroable for Block {}
// SAFETY: as above.
unsafe impl Pod for Block {}

impl Slab {
    pub(crate) fn zeroed(bytes: usize) -> Slab {
        Slab { blocks: bytemuck::zeroed_vec(bytes.div_ceil(64)), bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.bytes]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.bytes]
    }
}

impl Memory {
    /// No weights, no states.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// Gives `name` memory of its own, zero at first, if it has none; its index.
    ///
    /// # Errors
    /// If it has another size or element type.
    pub(crate) fn owned(&mut self, name: &str, ty: &Type, runs: &[usize]) -> Result<usize, GraphError> {
        let bytes = ty.bytes(runs);
        if let Some(&i) = self.names.get(name) {
            self.check(i, ty, bytes)?;
            return Ok(i);
        }
        Ok(self.add(name, ty.dtype, Storage::Owned(Slab::zeroed(bytes))))
    }

    fn add(&mut self, name: &str, dtype: Dtype, storage: Storage) -> usize {
        let name: Arc<str> = name.into();
        self.entries.push(Entry { name: name.clone(), dtype, storage });
        self.names.insert(name, self.entries.len() - 1);
        self.entries.len() - 1
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub(crate) fn check(&self, i: usize, ty: &Type, bytes: usize) -> Result<(), GraphError> {
        let e = &self.entries[i];
        let has = self.bytes_at(i).len();
        if e.dtype != ty.dtype || has != bytes {
            let what = format!("has {has} bytes of {} in memory, but {ty} needs {bytes} of {}", e.dtype, ty.dtype);
            return Err(GraphError::Name { name: e.name.to_string(), what });
        }
        Ok(())
    }

    pub(crate) fn bytes_at(&self, i: usize) -> &[u8] {
        match &self.entries[i].storage {
            Storage::Owned(slab) => slab.bytes(),
            Storage::Shared(bytes) => (**bytes).as_ref(),
        }
    }

    pub(crate) fn pointer(&mut self, i: usize) -> *mut u8 {
        match &mut self.entries[i].storage {
            Storage::Owned(slab) => slab.bytes_mut().as_mut_ptr(),
            Storage::Shared(bytes) => (**bytes).as_ref().as_ptr().cast_mut(),
        }
    }

    pub(crate) fn is_writable(&self, i: usize) -> bool {
        matches!(self.entries[i].storage, Storage::Owned(_))
    }

    /// Lets `name` be the bytes in somebody else's keeping, read-only.
    pub fn share(&mut self, name: &str, dtype: Dtype, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) {
        match self.names.get(name) {
            Some(&i) => self.entries[i] = Entry { name: name.into(), dtype, storage: Storage::Shared(bytes) },
            None => {
                self.add(name, dtype, Storage::Shared(bytes));
            }
        }
    }

    /// Gives `name` memory of its own with these elements.
    pub fn set<T: Pod>(&mut self, name: &str, dtype: Dtype, elements: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        let mut slab = Slab::zeroed(bytes.len());
        slab.bytes_mut().copy_from_slice(bytes);
        match self.names.get(name) {
            Some(&i) => self.entries[i] = Entry { name: name.into(), dtype, storage: Storage::Owned(slab) },
            None => {
                self.add(name, dtype, Storage::Owned(slab));
            }
        }
    }

    /// The elements of `name`, or `None` if it is not there or has elements of another size.
    pub fn get<T: Pod>(&self, name: &str) -> Option<&[T]> {
        bytemuck::try_cast_slice(self.bytes_at(self.index(name)?)).ok()
    }

    /// The elements of `name`, to be changed; `None` also if it is read-only.
    pub fn get_mut<T: Pod>(&mut self, name: &str) -> Option<&mut [T]> {
        let i = self.index(name)?;
        match &mut self.entries[i].storage {
            Storage::Owned(slab) => bytemuck::try_cast_slice_mut(slab.bytes_mut()).ok(),
            Storage::Shared(_) => None,
        }
    }

    /// The elements of several names at once, to be changed; `None` if one is missing, read-only, or named twice.
    pub fn get_many_mut<T: Pod, const N: usize>(&mut self, names: [&str; N]) -> Option<[&mut [T]; N]> {
        let mut at = [0; N];
        for (to, name) in at.iter_mut().zip(names) {
            *to = self.index(name)?;
        }
        let entries = self.entries.get_disjoint_mut(at).ok()?;
        let slices = entries.map(|e| match &mut e.storage {
            Storage::Owned(slab) => bytemuck::try_cast_slice_mut(slab.bytes_mut()).ok(),
            Storage::Shared(_) => None,
        });
        if slices.iter().any(Option::is_none) {
            return None;
        }
        Some(slices.map(|s| s.unwrap_or_default()))
    }

    /// The names, with element type and bytes, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Dtype, &[u8])> {
        (0..self.entries.len()).map(|i| (&*self.entries[i].name, self.entries[i].dtype, self.bytes_at(i)))
    }

    /// Bytes in memory of its own.
    pub fn owned_bytes(&self) -> usize {
        self.entries.iter().map(|e| if let Storage::Owned(s) = &e.storage { s.bytes().len() } else { 0 }).sum()
    }
}
