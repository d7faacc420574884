// Package columnar writes and reads tables of Go structs as Arrow IPC, Parquet
// and CSV. A field tagged `col:"name"` is a column; a nil pointer or slice is
// a null. It is the only package that knows the Arrow library, so that a newer
// one is a change here alone.
package columnar
