//go:build wasip1

// Command wasm is the plugin as a WebAssembly module.
package main

import (
	plain "blockengine/examples/protocol-go"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(plain.Plugin()) }

func main() {}
