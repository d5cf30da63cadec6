//go:build wasip1

// Command wasm is the nbd plugin as a WebAssembly module:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o nbd.wasm ./plugins/nbd/wasm
package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(nbd.Plugin()) }

func main() {}
