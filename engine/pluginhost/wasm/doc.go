// Package wasm runs protocol plugins that are WebAssembly modules. It makes a
// guest.Module of a file and a guest.Instance for each connection, and knows
// nothing of sockets, requests or what the records mean.
//
// A module is a stranger. What stands between it and the engine:
//
//   - It imports nothing but the few functions that a language runtime needs
//     to start, and those give it no authority (wasi.go).
//   - It is validated as it came, then rewritten so that it counts its own
//     work and the depth of its calls (package meter), then compiled in a
//     process of its own with limits (helper.go) into a private cache
//     (cache.go).
//   - Its memory is reserved at its cap, so that a view of it never moves
//     (reserve.go).
//   - Whatever it answers is checked before it is used (instance.go).
//
// Read first: load.go, then instance.go.
package wasm
