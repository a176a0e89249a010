"""Training a mapper under the teacher's guidance."""
