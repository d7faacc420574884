package model

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"tokenfork/internal/regular"
)

// Source says where what is known of the weights comes from.
type Source string

const (
	// FromHeaders: the safetensors files are there, both numbers are exact.
	FromHeaders Source = "headers"
	// FromIndex: only their index is, so the parameters follow from bytes and dtype.
	FromIndex Source = "index"
	// NoWeights: no safetensors, as with dummy weights; both numbers follow from the
	// shape of a dense decoder, and are 0 if the config does not give it.
	NoWeights Source = "none"
)

// Weights is the size of a model's tensors.
type Weights struct {
	Source     Source
	Bytes      int64
	Parameters int64 // elements of the tensors; quantised ones are packed and count less
}

const (
	indexFile  = "model.safetensors.index.json"
	singleFile = "model.safetensors"
	// maxHeader is the format's own bound on a header, in bytes.
	maxHeader = 100_000_000
)

// readWeights looks at the index and headers in dir. The sum is that of the index,
// else of the headers and names of the files, and empty without either.
func readWeights(dir string) (Weights, string, error) {
	data, err := regular.Read(filepath.Join(dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return unindexed(dir)
	}
	if err != nil {
		return Weights{}, "", fmt.Errorf("load model: %w", err)
	}
	w, err := indexed(dir, data)
	return w, sum(data), err
}

// indexed sizes the files that the index names. A folder may hold none of them, as
// on a login node, but not some.
func indexed(dir string, data []byte) (Weights, error) {
	var index struct {
		Metadata struct {
			TotalSize json.Number `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	path := filepath.Join(dir, indexFile)
	if err := json.Unmarshal(data, &index); err != nil {
		return Weights{}, damaged(path, err)
	}
	files := slices.Compact(slices.Sorted(maps.Values(index.WeightMap)))
	missing := slices.DeleteFunc(slices.Clone(files), func(name string) bool { return exists(filepath.Join(dir, name)) })
	switch {
	case len(files) == 0:
		return Weights{}, damaged(path, errors.New("it names no file"))
	case len(missing) == 0:
		w, _, err := readHeaders(dir, files)
		return w, err
	case len(missing) < len(files):
		return Weights{}, damaged(path, fmt.Errorf("%d of its %d files are missing: %s",
			len(missing), len(files), strings.Join(missing, ", ")))
	}
	size, err := index.Metadata.TotalSize.Float64() // some write it as 1.0e9
	if err != nil && index.Metadata.TotalSize != "" {
		return Weights{}, damaged(path, err)
	}
	return Weights{Source: FromIndex, Bytes: int64(size)}, nil
}

// unindexed sizes model.safetensors, or all safetensors files under other names.
func unindexed(dir string) (Weights, string, error) {
	files := []string{singleFile}
	if !exists(filepath.Join(dir, singleFile)) {
		paths, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		if err != nil {
			return Weights{}, "", fmt.Errorf("load model %s: %w", dir, err)
		}
		files = files[:0]
		for _, path := range paths {
			files = append(files, filepath.Base(path))
		}
	}
	if len(files) == 0 {
		return Weights{Source: NoWeights}, "", nil
	}
	return readHeaders(dir, files)
}

// readHeaders adds up the headers of files, which are sorted, and their sha256.
func readHeaders(dir string, files []string) (Weights, string, error) {
	all := Weights{Source: FromHeaders}
	hash := sha256.New()
	for _, name := range files {
		path := filepath.Join(dir, name)
		header, err := readHeader(path)
		if err != nil {
			return Weights{}, "", damaged(path, err)
		}
		if err := all.add(header); err != nil {
			return Weights{}, "", damaged(path, err)
		}
		fmt.Fprintf(hash, "%s %d\n", name, len(header))
		hash.Write(header)
	}
	return all, hex.EncodeToString(hash.Sum(nil)), nil
}

// readHeader reads the JSON at the start of a safetensors file: 8 bytes of length,
// little endian, then the header.
func readHeader(path string) ([]byte, error) {
	file, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var length uint64
	if err := binary.Read(file, binary.LittleEndian, &length); err != nil {
		return nil, err
	}
	if length > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes, more than safetensors allows", length)
	}
	header := make([]byte, length)
	if _, err := io.ReadFull(file, header); err != nil {
		return nil, err
	}
	return header, nil
}

// add counts the tensors of a header.
func (w *Weights) add(header []byte) error {
	var tensors map[string]struct {
		Shape   []int64  `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(header, &tensors); err != nil {
		return err
	}
	delete(tensors, "__metadata__")
	for name, tensor := range tensors {
		elements := int64(1)
		for _, n := range tensor.Shape {
			elements *= n
		}
		size := tensor.Offsets[1] - tensor.Offsets[0]
		if elements < 0 || size < 0 {
			return fmt.Errorf("tensor %s has shape %v and offsets %v", name, tensor.Shape, tensor.Offsets)
		}
		w.Parameters += elements
		w.Bytes += size
	}
	return nil
}
