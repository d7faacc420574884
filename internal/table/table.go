// Package table reads tables of token predictions, one row per token of a
// text: CSV, plain or compressed, Parquet and Arrow, as batches of checked
// columns in the table's order.
package table
