//! Models in several GGUF files, `name-00001-of-00003.gguf` and so on, each with the keys `split.no`, `split.count` and
//! `split.tensors.count`; the first has the model's own keys.

use std::path::{Path, PathBuf};

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Metadata, TensorPlan, Writer, parse};
use crate::{
    container::{FileError, Header},
    mapped_file::MappedFile,
};

const NUMBER_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSORS_KEY: &str = "split.tensors.count";

/// The part's number (from 1) and the number of parts that a file name gives, or `None` for another name.
pub fn split_number(path: &Path) -> Option<(u32, u32)> {
    let (_, part, count) = split_name(path)?;
    Some((part, count))
}

/// `folder/name-00002-of-00003.gguf` as (`name`, 2, 3).
fn split_name(path: &Path) -> Option<(&str, u32, u32)> {
    let (rest, count) = path.file_name()?.to_str()?.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, part) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse::<u32>().ok())?
    };
    let (part, count) = (number(part)?, number(count)?);
    (1..=count).contains(&part).then_some((prefix, part, count))
}

fn part_path(folder: &Path, prefix: &str, part: u32, count: u32) -> PathBuf {
    folder.join(format!("{prefix}-{part:05}-of-{count:05}.gguf"))
}

/// The headers of a file and, if it is one part of several, of all the others, in order.
pub(crate) fn open_parts(file: MappedFile) -> Result<Vec<(MappedFile, Header)>, FileError> {
    let header = parse(file.path(), &file)?;
    let count = header.metadata.find::<u16>(COUNT_KEY)?.map_or(1, u32::from);
    if count <= 1 {
        let mut parts = vec![(file, header)];
        forget_split(&mut parts);
        return Ok(parts);
    }
    let path = file.path().to_path_buf();
    let Some((prefix, opened, named_count)) = split_name(&path) else {
        return Err(FileError::Header {
            file: path,
            problem: format!("is one of {count} parts, so its name should end in -00001-of-{count:05}.gguf"),
        });
    };
    if named_count != count {
        return Err(header
            .metadata
            .wrong(COUNT_KEY, format!("is {count}, but the file name says {named_count} parts")));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut given = Some((file, header));
    let mut parts = Vec::new();
    for part in 1..=count {
        let (file, header) = match given.take_if(|_| part == opened) {
            Some(given) => given,
            None => {
                let file = MappedFile::open(part_path(folder, prefix, part, count))?;
                let header = parse(file.path(), &file)?;
                (file, header)
            }
        };
        check_part(&header.metadata, part, count)?;
        parts.push((file, header));
    }
    let tensors: usize = parts.iter().map(|(_, header)| header.tensors.len() + header.unsupported.len()).sum();
    if let Some((_, first)) = parts.first()
        && let Some(expected) = first.metadata.find::<usize>(TENSORS_KEY)?
        && expected != tensors
    {
        return Err(first.metadata.wrong(TENSORS_KEY, format!("is {expected}, but the parts hold {tensors} tensors")));
    }
    forget_split(&mut parts);
    Ok(parts)
}

fn check_part(metadata: &Metadata, part: u32, count: u32) -> Result<(), FileError> {
    let number = u32::from(metadata.require::<u16>(NUMBER_KEY)?);
    if number + 1 != part {
        return Err(metadata.wrong(NUMBER_KEY, format!("is {number}; by the file's name it should be {}", part - 1)));
    }
    let own_count = u32::from(metadata.require::<u16>(COUNT_KEY)?);
    if own_count != count {
        return Err(metadata.wrong(COUNT_KEY, format!("is {own_count}; in the part opened first it is {count}")));
    }
    Ok(())
}

/// The joined model is one model: a copy of it must not say that it is a part.
fn forget_split(parts: &mut [(MappedFile, Header)]) {
    for (_, header) in parts {
        for key in [NUMBER_KEY, COUNT_KEY, TENSORS_KEY] {
            header.metadata.remove(key);
        }
    }
}

/// Writes a model in parts of at most `max_part_bytes` of tensor data each (a larger tensor has a part of its own) and
/// returns their paths. `path` is `folder/name.gguf`; `fill` writes the bytes of one tensor. Each part is written
/// atomically.
///
/// # Errors
/// As [`Writer`]'s, those of `fill`, or when there would be more than 65535 parts.
pub fn write_split(
    path: impl AsRef<Path>,
    metadata: &Metadata,
    tensors: Vec<TensorPlan>,
    max_part_bytes: u64,
    mut fill: impl FnMut(&TensorPlan, &mut Writer) -> Result<(), FileError>,
) -> Result<Vec<PathBuf>, FileError> {
    let path = path.as_ref();
    let total = tensors.len();
    let alignment = metadata.find::<u32>(ALIGNMENT_KEY)?.map_or(DEFAULT_ALIGNMENT, u64::from).max(1);
    let mut parts: Vec<Vec<TensorPlan>> = vec![Vec::new()];
    let mut part_bytes = 0;
    for tensor in tensors {
        let bytes = tensor.bytes(path)?.div_ceil(alignment).saturating_mul(alignment);
        if part_bytes > 0 && bytes > max_part_bytes.saturating_sub(part_bytes) {
            parts.push(Vec::new());
            part_bytes = 0;
        }
        part_bytes += bytes;
        if let Some(part) = parts.last_mut() {
            part.push(tensor);
        }
    }
    let (Ok(count), Ok(total)) = (u16::try_from(parts.len()), i32::try_from(total)) else {
        return Err(FileError::Header {
            file: path.to_path_buf(),
            problem: format!("would have {} parts; at most 65535 are possible: raise the part size", parts.len()),
        });
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let prefix = path.file_stem().and_then(|s| s.to_str()).unwrap_or("model");
    let mut written = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        let mut own = if number == 0 { metadata.clone() } else { Metadata::new(path) };
        if let Some(alignment) = metadata.get(ALIGNMENT_KEY) {
            own.insert(ALIGNMENT_KEY, alignment.clone());
        }
        own.insert(NUMBER_KEY, number as u16);
        own.insert(COUNT_KEY, count);
        own.insert(TENSORS_KEY, total);
        let part_path = part_path(folder, prefix, number as u32 + 1, count.into());
        let mut writer = Writer::create(&part_path, &own, part)?;
        while let Some(plan) = writer.due().cloned() {
            fill(&plan, &mut writer)?;
            if writer.due().is_some_and(|due| due.name == plan.name) {
                return Err(FileError::Tensor {
                    file: part_path,
                    tensor: plan.name,
                    problem: "was given fewer bytes than it has".into(),
                });
            }
        }
        writer.finish()?;
        written.push(part_path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_numbers_are_read_from_names() {
        assert_eq!(split_number(Path::new("a/llama-7b-00002-of-00003.gguf")), Some((2, 3)));
        assert_eq!(split_number(Path::new("llama-00004-of-00003.gguf")), None);
        assert_eq!(split_number(Path::new("llama-2-of-3.gguf")), None);
        assert_eq!(split_number(Path::new("llama.gguf")), None);
    }
}
