// Command echo is the smallest protocol plugin that does something: it sends a
// 16-byte header for each request and completes reads of zeroes at once.
package main

import (
	"blockengine/engine/pluginhost/wasm/testdata/echo/proto"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(proto.Plugin{}) }

func main() {}
