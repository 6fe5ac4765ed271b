//! Operators, automatic differentiation, memory planning, execution.
