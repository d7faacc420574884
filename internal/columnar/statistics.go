package columnar

import (
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/metadata"
)

// see counts the open page's values in its statistics, and gives its nulls.
func (k *chunk) see(v *values, from, to int) (nulls int) {
	switch s := k.page.(type) {
	case *metadata.BooleanStatistics:
		some := present(v, cast[bool](v.data), from, to)
		nulls = k.levels - len(some)
		s.Update(some, int64(nulls))
		return nulls
	case *metadata.ByteArrayStatistics:
		nulls = k.levels - len(k.indices)
		texts := k.memo.texts // the first page has all of them
		if k.count > 0 {
			texts = make([]parquet.ByteArray, len(k.indices))
			for i, at := range k.indices {
				texts[i] = k.memo.texts[at]
			}
		}
		s.Update(texts, int64(nulls))
	case *metadata.Int32Statistics:
		nulls = k.levels - len(k.indices)
		s.Update(numbers[int32](k, v, from, to), int64(nulls))
	case *metadata.Int64Statistics:
		nulls = k.levels - len(k.indices)
		s.Update(numbers[int64](k, v, from, to), int64(nulls))
	case *metadata.Float64Statistics:
		nulls = k.levels - len(k.indices)
		s.Update(numbers[float64](k, v, from, to), int64(nulls))
	}
	return nulls
}

// numbers are those of rows that are not null.
func numbers[V any](k *chunk, v *values, from, to int) []V {
	if k.list {
		return cast[V](v.data)[v.offsets[from]:v.offsets[to]]
	}
	return present(v, cast[V](v.data), from, to)
}

func present[V any](v *values, all []V, from, to int) []V {
	valid := v.nulls()
	if valid == nil {
		return all[from:to]
	}
	some := make([]V, 0, to-from)
	for row := from; row < to; row++ {
		if valid[row] == 1 {
			some = append(some, all[row])
		}
	}
	return some
}
