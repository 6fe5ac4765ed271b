//! Writing GGUF version 3: the header first, then tensors one by one in its order, so that no model need be in memory.

use std::{collections::HashSet, io::Write, path::Path};

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAGIC, Metadata, Value, dtype_id};
use crate::{
    Dtype,
    atomic_file::{AtomicFile, WriteError},
    container::{FileError, tensor_bytes},
};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// The name in the file.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Outermost dimension first; at most four.
    pub shape: Vec<usize>,
}

impl TensorPlan {
    /// How many bytes it has.
    ///
    /// # Errors
    /// When the rows are not whole blocks, there are more than four dimensions, or the size overflows.
    pub fn bytes(&self, file: &Path) -> Result<u64, FileError> {
        let wrong = |problem| FileError::Tensor { file: file.to_path_buf(), tensor: self.name.clone(), problem };
        if self.shape.len() > 4 {
            return Err(wrong(format!("has {} dimensions; GGUF has at most 4", self.shape.len())));
        }
        let block = (self.dtype.block_len(), self.dtype.block_bytes());
        tensor_bytes(&self.shape, self.dtype.name(), block).map_err(wrong)
    }
}

/// A GGUF file being written; it appears under its name when [`Writer::finish`] succeeds.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    alignment: u64,
    tensors: Vec<(TensorPlan, u64)>,
    next: usize,
    written: u64,
}

impl Writer {
    /// Writes the header. `general.alignment` in the metadata is obeyed.
    ///
    /// # Errors
    /// When the alignment, a shape or a name is impossible, or the file cannot be written.
    pub fn create(path: impl AsRef<Path>, metadata: &Metadata, tensors: Vec<TensorPlan>) -> Result<Writer, FileError> {
        let path = path.as_ref();
        let alignment = metadata.find::<u32>(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from);
        if !alignment.is_power_of_two() || alignment < 8 {
            return Err(metadata
                .wrong(ALIGNMENT_KEY, format!("is {alignment}; it should be a power of two and a multiple of 8")));
        }
        let mut names = HashSet::new();
        let mut sized = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = tensor.bytes(path)?;
            if !names.insert(tensor.name.clone()) {
                let problem = "is there twice; each name should be there once".into();
                return Err(FileError::Tensor { file: path.to_path_buf(), tensor: tensor.name, problem });
            }
            sized.push((tensor, bytes));
        }
        let mut header = header(metadata, &sized, alignment);
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let mut writer = Writer { file: AtomicFile::create(path)?, alignment, tensors: sized, next: 0, written: 0 };
        writer.put(&header)?;
        writer.advance()?;
        Ok(writer)
    }

    /// The tensor whose bytes are due, or `None` when all are written.
    pub fn due(&self) -> Option<&TensorPlan> {
        self.tensors.get(self.next).map(|(plan, _)| plan)
    }

    /// Writes bytes of the tensor that is due; a large one may come in several calls.
    ///
    /// # Errors
    /// When there are more bytes than it has, or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let Some((plan, size)) = self.tensors.get(self.next) else {
            return Err(self.wrong("", format!("{} bytes came after the last tensor", bytes.len())));
        };
        let size = *size;
        if self.written + bytes.len() as u64 > size {
            let name = plan.name.clone();
            return Err(self.wrong(&name, format!("{} bytes came where {} were due", bytes.len(), size - self.written)));
        }
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        self.advance()
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// When a tensor's bytes are missing, or the file cannot be put in place.
    pub fn finish(self) -> Result<(), FileError> {
        if let Some((plan, size)) = self.tensors.get(self.next) {
            return Err(self.wrong(&plan.name, format!("got {} of its {size} bytes", self.written)));
        }
        Ok(self.file.commit()?)
    }

    /// Pads and passes over each tensor that has all its bytes, empty ones included.
    fn advance(&mut self) -> Result<(), FileError> {
        while self.tensors.get(self.next).is_some_and(|(_, size)| *size == self.written) {
            let padding = self.written.next_multiple_of(self.alignment) - self.written;
            for _ in 0..padding {
                self.put(&[0])?;
            }
            self.next += 1;
            self.written = 0;
        }
        Ok(())
    }

    fn wrong(&self, tensor: &str, problem: String) -> FileError {
        FileError::Tensor { file: self.file.path().to_path_buf(), tensor: tensor.into(), problem }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let path = self.file.path().to_path_buf();
        Ok(self.file.write_all(bytes).map_err(|source| WriteError { path, action: "write", source })?)
    }
}

fn header(metadata: &Metadata, tensors: &[(TensorPlan, u64)], alignment: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key);
        out.extend(value.type_id().to_le_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for (plan, bytes) in tensors {
        put_string(&mut out, &plan.name);
        out.extend((plan.shape.len() as u32).to_le_bytes());
        for &dimension in plan.shape.iter().rev() {
            out.extend((dimension as u64).to_le_bytes());
        }
        out.extend(dtype_id(plan.dtype).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(alignment);
    }
    out
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(n) => out.push(*n),
        Value::I8(n) => out.extend(n.to_le_bytes()),
        Value::U16(n) => out.extend(n.to_le_bytes()),
        Value::I16(n) => out.extend(n.to_le_bytes()),
        Value::U32(n) => out.extend(n.to_le_bytes()),
        Value::I32(n) => out.extend(n.to_le_bytes()),
        Value::F32(x) => out.extend(x.to_le_bytes()),
        Value::Bool(b) => out.push(u8::from(*b)),
        Value::String(text) => put_string(out, text),
        Value::Array(array) => put_array(out, array),
        Value::U64(n) => out.extend(n.to_le_bytes()),
        Value::I64(n) => out.extend(n.to_le_bytes()),
        Value::F64(x) => out.extend(x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&b| u8::from(b))),
        Array::String(v) => v.iter().for_each(|text| put_string(out, text)),
        Array::Array(v) => v.iter().for_each(|inner| put_array(out, inner)),
        Array::U64(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|n| out.extend(n.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}
