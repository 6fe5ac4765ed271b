mod bits;
mod case;
mod conditioning;
mod forms;
mod interpolation;
mod refusals;
