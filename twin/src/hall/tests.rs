//! Tests of the hall.
