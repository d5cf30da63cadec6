//go:build wasip1

// Package wasm makes a WebAssembly plugin of a protocol.Plugin. A plugin's
// main package is
//
//	package main
//
//	import (
//		"blockengine/sdk/wasm"
//		"example.com/myprotocol"
//	)
//
//	func init() { wasm.Serve(myprotocol.Plugin()) }
//	func main() {}
//
// built with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o myprotocol.wasm
//
// The engine makes an instance of the module for each connection.
package wasm

import (
	"runtime"
	"unsafe"

	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
	"blockengine/sdk/protocol"
)

var (
	plugin   protocol.Plugin
	machine  *protocol.Machine
	text     []byte
	buffers  abi.Buffers
	in, out  []uint64 // words, so that the buffers are aligned
	serveErr = "wasm.Serve was not called from an init function"
)

// Serve names the plugin that this module is. It is called from init.
func Serve(p protocol.Plugin) { plugin = p }

//go:wasmexport be_abi
func beABI() uint32 { return abi.Version }

//go:wasmexport be_manifest
func beManifest() uint64 {
	if plugin == nil {
		panic(serveErr)
	}
	m := plugin.Manifest()
	m.ABI = abi.Version
	if m.Payload == "" {
		m.Payload = manifest.Direct
	}
	text = m.AppendJSON(nil)
	return uint64(address(unsafe.Pointer(unsafe.SliceData(text))))<<32 | uint64(len(text))
}

//go:wasmexport be_buffers
func beBuffers(inSize, outSize uint32) uint32 {
	if plugin == nil {
		panic(serveErr)
	}
	in, out = make([]uint64, inSize/8), make([]uint64, outSize/8)
	inBytes, outBytes := bytes(in), bytes(out)
	machine = protocol.NewMachine(plugin.NewConn(), inBytes, outBytes, runtime.GC)
	buffers = abi.Buffers{
		In: address(unsafe.Pointer(unsafe.SliceData(in))), InSize: uint32(len(inBytes)),
		Out: address(unsafe.Pointer(unsafe.SliceData(out))), OutSize: uint32(len(outBytes)),
	}
	return address(unsafe.Pointer(&buffers))
}

//go:wasmexport be_call
func beCall(n uint32) uint32 { return machine.Call(n) }

func address(p unsafe.Pointer) uint32 { return uint32(uintptr(p)) }

func bytes(w []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), len(w)*8)
}
