//go:build wasip1

// Command wasm is the badly behaved plugin as a WebAssembly module.
package main

import (
	"blockengine/sdk/sdktest/badplugins"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(badplugins.Plugin()) }

func main() {}
