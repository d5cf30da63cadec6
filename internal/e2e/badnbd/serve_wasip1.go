package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/wasm"
)

func init() { wasm.Serve(plugin{nbd.Plugin()}) }

func main() {}
