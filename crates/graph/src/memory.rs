//! What outlives a run: weights and states, by name.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::Pod;
use memwall_formats::Dtype;
use memwall_store::{Budget, Guard, Reserved};

use crate::GraphError;
use crate::shape::Type;

/// A weight or state in memory.
enum Storage {
    /// Memory of its own, writable.
    Owned(Reserved),
    /// Bytes of a tier, read-only.
    Shared(Guard),
}

struct Entry {
    name: Arc<str>,
    dtype: Dtype,
    storage: Storage,
}

/// Weights and states, shared by the graphs that name them: a training step, its optimizer, an evaluation.
pub struct Memory {
    budget: Budget,
    entries: Vec<Entry>,
    names: HashMap<Arc<str>, usize>,
}

/// A state that grows, in the memory that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region(usize);

impl Default for Memory {
    fn default() -> Memory {
        Memory::within(&Budget::unlimited())
    }
}

impl Memory {
    /// No weights, no states, and no limit.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// No weights, no states; what comes is taken from `budget`, weights and states each under its account.
    pub fn within(budget: &Budget) -> Memory {
        Memory { budget: budget.clone(), entries: Vec::new(), names: HashMap::new() }
    }

    /// The budget that all of it, and the arenas of its executors, is taken from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Gives `name` memory of its own, zero at first, if it has none; its index.
    ///
    /// # Errors
    /// If it has another size or element type, or the budget refuses.
    pub(crate) fn owned(&mut self, name: &str, ty: &Type, runs: &[usize]) -> Result<usize, GraphError> {
        let bytes = ty.bytes(runs);
        if let Some(i) = self.index(name) {
            self.check(i, ty, bytes)?;
            return Ok(i);
        }
        let storage = whole(&self.budget, "state", bytes)?;
        Ok(self.add(name, ty.dtype, Storage::Owned(storage)))
    }

    /// Reserves room for a state [parts, …] that grows part by part and holds nothing yet, under `account`; it reads as
    /// zeros. What it holds already is dropped.
    ///
    /// # Errors
    /// If the operating system has no such range of addresses.
    pub fn reserve(
        &mut self,
        account: &'static str,
        name: &str,
        dtype: Dtype,
        parts: usize,
        part_bytes: usize,
    ) -> Result<Region, GraphError> {
        let reserved = Reserved::new(&self.budget, account, parts, part_bytes)?;
        Ok(Region(self.put(name, dtype, Storage::Owned(reserved))))
    }

    /// Lets a part of a state hold `bytes`, from its begin on; growing adds zeros, shrinking gives pages back.
    ///
    /// # Errors
    /// Beyond its room, or when the budget refuses.
    ///
    /// # Panics
    /// If the region is of another memory, or has no such part.
    pub fn resize(&mut self, region: Region, part: usize, bytes: usize) -> Result<(), GraphError> {
        match &mut self.entries[region.0].storage {
            Storage::Owned(reserved) => Ok(reserved.resize(part, bytes)?),
            Storage::Shared(_) => unreachable!("`reserve` makes regions of their own memory"),
        }
    }

    fn put(&mut self, name: &str, dtype: Dtype, storage: Storage) -> usize {
        match self.index(name) {
            Some(i) => {
                self.entries[i] = Entry { name: name.into(), dtype, storage };
                i
            }
            None => self.add(name, dtype, storage),
        }
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
            Storage::Owned(reserved) => reserved.as_slice(),
            Storage::Shared(guard) => guard,
        }
    }

    pub(crate) fn pointer(&mut self, i: usize) -> *mut u8 {
        match &mut self.entries[i].storage {
            Storage::Owned(reserved) => reserved.as_mut_slice().as_mut_ptr(),
            Storage::Shared(guard) => guard.as_ptr().cast_mut(),
        }
    }

    pub(crate) fn is_writable(&self, i: usize) -> bool {
        matches!(self.entries[i].storage, Storage::Owned(_))
    }

    /// Lets `name` be a tensor of a tier, read-only.
    pub fn share(&mut self, name: &str, dtype: Dtype, guard: Guard) {
        self.put(name, dtype, Storage::Shared(guard));
    }

    /// Gives `name` memory of its own with these elements.
    ///
    /// # Errors
    /// When the budget refuses.
    pub fn set<T: Pod>(&mut self, name: &str, dtype: Dtype, elements: &[T]) -> Result<(), GraphError> {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if let Some(i) = self.index(name)
            && let Entry { dtype: has, storage: Storage::Owned(reserved), .. } = &mut self.entries[i]
            && *has == dtype
            && reserved.capacity() == bytes.len()
        {
            reserved.as_mut_slice().copy_from_slice(bytes);
            return Ok(());
        }
        let mut reserved = whole(&self.budget, "weights", bytes.len())?;
        reserved.as_mut_slice().copy_from_slice(bytes);
        self.put(name, dtype, Storage::Owned(reserved));
        Ok(())
    }

    /// The elements of `name`, or `None` if it is not there or has elements of another size.
    pub fn get<T: Pod>(&self, name: &str) -> Option<&[T]> {
        bytemuck::try_cast_slice(self.bytes_at(self.index(name)?)).ok()
    }

    /// The elements of `name`, to be changed; `None` also if it is read-only.
    pub fn get_mut<T: Pod>(&mut self, name: &str) -> Option<&mut [T]> {
        let i = self.index(name)?;
        match &mut self.entries[i].storage {
            Storage::Owned(reserved) => bytemuck::try_cast_slice_mut(reserved.as_mut_slice()).ok(),
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
            Storage::Owned(reserved) => bytemuck::try_cast_slice_mut(reserved.as_mut_slice()).ok(),
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
}

/// A region that holds all of its bytes.
fn whole(budget: &Budget, account: &'static str, bytes: usize) -> Result<Reserved, GraphError> {
    let mut reserved = Reserved::new(budget, account, 1, bytes)?;
    reserved.resize(0, bytes)?;
    Ok(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_from_the_budget_by_account_and_given_back() {
        let budget = Budget::unlimited();
        let mut memory = Memory::within(&budget);
        let account = |name: &str| budget.report().accounts.iter().find(|a| a.name == name).map_or(0, |a| a.bytes);
        memory.set("w", Dtype::F32, &[1.0_f32; 1024]).unwrap();
        let kv = memory.reserve("kv", "keys", Dtype::F32, 2, 1 << 20).unwrap();
        let state = Type::new([2048], Dtype::F32);
        memory.owned("s", &state, &[]).unwrap();
        assert_eq!((account("weights"), account("kv"), account("state")), (4096, 0, 8192));
        memory.resize(kv, 1, 10_000).unwrap();
        assert_eq!(account("kv"), 12_288);
        assert_eq!(memory.get::<f32>("keys").unwrap().len(), 2 << 18, "what is not held reads as zeros");
        memory.set("w", Dtype::F32, &[2.0_f32; 1024]).unwrap();
        assert_eq!((account("weights"), memory.get::<f32>("w").unwrap()[1023]), (4096, 2.0));
        memory.set("w", Dtype::F32, &[3.0_f32; 5]).unwrap();
        assert_eq!(memory.get::<f32>("w").unwrap(), [3.0; 5]);
        drop(memory);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_budget_without_room_refuses_and_changes_nothing() {
        let budget = Budget::new(8192);
        let mut memory = Memory::within(&budget);
        memory.set("w", Dtype::F32, &[1.0_f32; 1024]).unwrap();
        assert!(memory.set("w", Dtype::F32, &[1.0_f32; 4096]).unwrap_err().to_string().contains("weights needs"));
        assert_eq!((memory.get::<f32>("w").unwrap().len(), budget.held()), (1024, 4096));
    }
}
