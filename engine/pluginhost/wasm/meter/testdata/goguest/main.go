// Command goguest is a guest of the stock Go toolchain, built for wasip1 by the
// tests: header building on the hot path, and a tour through the runtime
// (maps, channels, garbage, panics, formatting, recursion).
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"strings"
)

var out [64 << 10]byte

// headers builds n NBD request headers and gives their length in bytes.
//
//go:wasmexport headers
func headers(n uint32) uint32 {
	for i := uint32(0); i < n; i++ {
		header(out[i*28:i*28+28], uint64(i), uint64(i)<<12, 4096)
	}
	return n * 28
}

//go:noinline
func header(b []byte, cookie, offset uint64, length uint32) {
	binary.BigEndian.PutUint32(b, 0x25609513)
	binary.BigEndian.PutUint32(b[4:], 1)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], offset)
	binary.BigEndian.PutUint32(b[24:], length)
}

// sum gives a checksum of what headers wrote.
//
//go:wasmexport sum
func sum(n uint32) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range out[:n] {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// tour runs through the runtime and gives a number that depends on all of it.
//
//go:wasmexport tour
func tour(seed uint32) uint64 {
	words := map[string]int{}
	for i := uint32(0); i < 500; i++ {
		words[fmt.Sprintf("w%03d", (i*7919+seed)%997)] += int(i)
	}
	keys := make([]string, 0, len(words))
	for k := range words {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	total := uint64(len(strings.Join(keys, ",")))
	for _, k := range keys {
		total = total*31 + uint64(words[k])
	}
	runtime.GC()
	return total + fib(18) + caught(int(seed)) + piped(uint64(seed))
}

func fib(n uint64) uint64 {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func caught(i int) (n uint64) {
	defer func() {
		if e, ok := recover().(error); ok {
			n = uint64(len(e.Error()))
		}
	}()
	var empty []int
	if i%2 == 0 {
		panic(errors.New("even"))
	}
	return uint64(empty[i])
}

func piped(n uint64) (total uint64) {
	c := make(chan uint64)
	go func() {
		for i := uint64(0); i < 100; i++ {
			c <- i * n
		}
		close(c)
	}()
	for v := range c {
		total += v
	}
	return total
}

// down recurses n deep.
//
//go:wasmexport down
func down(n uint32) uint32 {
	if n == 0 {
		return 0
	}
	return down(n-1) + 1
}

// forever does not return.
//
//go:wasmexport forever
func forever() {
	for i := 0; ; i++ {
		out[i%len(out)]++
	}
}

func main() {}
