//! Shapes with a few named run-time dimensions, each bounded by a planned maximum.

use std::fmt;

use memwall_formats::Dtype;

/// The most dimensions a tensor has.
pub const MAX_RANK: usize = 4;

/// A dimension whose size is set before each run, e.g. the rows of a step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RunDim(pub(crate) u16);

/// The size of one axis: fixed, or `times × run-time dimension + plus`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Dim {
    run: Option<RunDim>,
    times: usize,
    plus: usize,
}

impl Dim {
    /// A size known when the graph is built.
    pub const fn fixed(n: usize) -> Dim {
        Dim { run: None, times: 0, plus: n }
    }

    /// The size, if it is known when the graph is built.
    pub const fn known(self) -> Option<usize> {
        match self.run {
            None => Some(self.plus),
            Some(_) => None,
        }
    }

    /// The run-time dimension that this size depends on.
    pub const fn run(self) -> Option<RunDim> {
        self.run
    }

    /// This size `n` times.
    pub const fn times(self, n: usize) -> Dim {
        Dim { run: self.run, times: self.times * n, plus: self.plus * n }
    }

    /// This size and `n` more.
    pub const fn plus(self, n: usize) -> Dim {
        Dim { run: self.run, times: self.times, plus: self.plus + n }
    }

    /// This size less `n`, if it always has as many.
    pub fn minus(self, n: usize) -> Option<Dim> {
        Some(Dim { run: self.run, times: self.times, plus: self.plus.checked_sub(n)? })
    }

    /// This size split into parts of `n`, if it always divides.
    pub fn divided(self, n: usize) -> Option<Dim> {
        let whole = n > 0 && self.times.is_multiple_of(n) && self.plus.is_multiple_of(n);
        whole.then(|| Dim { run: self.run, times: self.times / n, plus: self.plus / n })
    }

    /// The size under the given sizes of the run-time dimensions.
    pub fn size(self, runs: &[usize]) -> usize {
        self.plus + self.run.map_or(0, |r| self.times * runs[r.0 as usize])
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::fixed(n)
    }
}

impl From<RunDim> for Dim {
    fn from(run: RunDim) -> Dim {
        Dim { run: Some(run), times: 1, plus: 0 }
    }
}

/// The sizes of a tensor's axes, outermost first; the layout is contiguous.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Vec<Dim>);

impl Shape {
    /// A shape of at most [`MAX_RANK`] axes.
    ///
    /// # Panics
    /// With more axes.
    pub fn new(dims: &[Dim]) -> Shape {
        assert!(dims.len() <= MAX_RANK, "{} axes, at most {MAX_RANK}", dims.len());
        Shape(dims.to_vec())
    }

    /// The axes.
    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// How many axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The size of the last axis, 1 for a scalar; `None` if it is a run-time dimension.
    pub fn width(&self) -> Option<usize> {
        self.0.last().map_or(Some(1), |d| d.known())
    }

    /// All axes but the last, multiplied; `None` if more than one of them is a run-time dimension.
    pub fn rows(&self) -> Option<Dim> {
        product(&self.0[..self.0.len().saturating_sub(1)])
    }

    /// All axes multiplied; `None` if more than one of them is a run-time dimension.
    pub fn elements(&self) -> Option<Dim> {
        product(&self.0)
    }

    /// The same shape with another last axis.
    pub fn with_width(&self, width: impl Into<Dim>) -> Shape {
        let mut dims = self.0.clone();
        match dims.last_mut() {
            Some(last) => *last = width.into(),
            None => dims.push(width.into()),
        }
        Shape(dims)
    }

    /// The sizes under the given sizes of the run-time dimensions.
    pub fn sizes(&self, runs: &[usize]) -> Sizes {
        let mut sizes = Sizes { rank: self.0.len(), axes: [1; MAX_RANK] };
        for (to, dim) in sizes.axes.iter_mut().zip(&self.0) {
            *to = dim.size(runs);
        }
        sizes
    }
}

fn product(dims: &[Dim]) -> Option<Dim> {
    let mut all = Dim::fixed(1);
    for d in dims {
        all = match (all.known(), d.known()) {
            (_, Some(n)) => all.times(n),
            (Some(n), None) => d.times(n),
            (None, None) => return None,
        };
    }
    Some(all)
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Shape {
        Shape::new(&sizes.map(Dim::fixed))
    }
}

impl<const N: usize> From<[Dim; N]> for Shape {
    fn from(dims: [Dim; N]) -> Shape {
        Shape::new(&dims)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match d.run {
                None => write!(f, "{}", d.plus)?,
                Some(r) => {
                    if d.times != 1 {
                        write!(f, "{}·", d.times)?;
                    }
                    write!(f, "n{}", r.0)?;
                    if d.plus != 0 {
                        write!(f, "+{}", d.plus)?;
                    }
                }
            }
        }
        f.write_str("]")
    }
}

/// The sizes of a tensor's axes in one run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    rank: usize,
    axes: [usize; MAX_RANK],
}

impl Sizes {
    /// The axes, outermost first.
    pub fn axes(&self) -> &[usize] {
        &self.axes[..self.rank]
    }

    /// The size of axis `i`; 1 beyond the last.
    pub fn axis(&self, i: usize) -> usize {
        self.axes[i]
    }

    /// The size of the last axis, 1 for a scalar.
    pub fn width(&self) -> usize {
        self.axes().last().copied().unwrap_or(1)
    }

    /// How many elements.
    pub fn elements(&self) -> usize {
        self.axes().iter().product()
    }

    /// How many rows of [`Sizes::width`] elements.
    pub fn rows(&self) -> usize {
        self.axes[..self.rank.saturating_sub(1)].iter().product()
    }
}

/// What a value is: a shape of elements of one type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Type {
    /// Sizes of the axes.
    pub shape: Shape,
    /// How elements are stored.
    pub dtype: Dtype,
}

impl Type {
    /// A type from its parts.
    pub fn new(shape: impl Into<Shape>, dtype: Dtype) -> Type {
        Type { shape: shape.into(), dtype }
    }

    /// Bytes under the given sizes of the run-time dimensions.
    pub fn bytes(&self, runs: &[usize]) -> usize {
        let sizes = self.shape.sizes(runs);
        let row = self.dtype.row_bytes(sizes.width()).expect("checked when the value was made");
        sizes.rows() * row
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_time_dimension_scales_and_shifts() {
        let rows = Dim::from(RunDim(0));
        let shape = Shape::from([rows, Dim::fixed(4), Dim::fixed(8)]);
        assert_eq!(shape.rows(), Some(rows.times(4)));
        assert_eq!(shape.sizes(&[3]).axes(), [3, 4, 8]);
        assert_eq!(rows.plus(1).size(&[5]), 6);
        assert_eq!(rows.times(6).divided(3), Some(rows.times(2)));
        assert_eq!(rows.plus(1).divided(2), None);
        assert_eq!(Shape::from([rows, rows]).rows(), Some(rows));
        assert_eq!(Shape::from([rows, rows]).elements(), None);
        assert_eq!(shape.to_string(), "[n0, 4, 8]");
    }

    #[test]
    fn bytes_follow_the_block_format() {
        let t = Type::new([3, 64], Dtype::Q8_0);
        assert_eq!(t.bytes(&[]), 3 * 2 * 34);
    }
}
