//go:build wasip1

// Command copywasm is the tiny test plugin as a WebAssembly module.
package main

import (
	"blockengine/sdk/sdktest/testplugins/tiny"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(tiny.Transforming()) }

func main() {}
