package abi

import "unsafe"

// The sizes of the records, asserted wherever the package is compiled, also
// for WebAssembly, where no test runs. Offsets: layout_test.go.
var (
	_ [8]byte   = [unsafe.Sizeof(Header{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Buffers{})]byte{}
	_ [128]byte = [unsafe.Sizeof(Opened{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(Request{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(Received{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(Timer{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Abort{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Closed{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Message{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(SessionData{})]byte{}
	_ [48]byte  = [unsafe.Sizeof(Digest{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(Payload{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Bytes{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(Range{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Count{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(Want{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(Complete{})]byte{}
	_ [32]byte  = [unsafe.Sizeof(Extent{})]byte{}
	_ [80]byte  = [unsafe.Sizeof(Limits{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(SetTimer{})]byte{}
	_ [24]byte  = [unsafe.Sizeof(Fail{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(DigestMark{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(Hash{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(PathState{})]byte{}

	// Fields whose place depends on how an architecture aligns 64-bit words.
	_ [120]byte = [unsafe.Offsetof(Opened{}.StreamPos)]byte{}
	_ [24]byte  = [unsafe.Offsetof(Request{}.Offset)]byte{}
	_ [24]byte  = [unsafe.Offsetof(Complete{}.Done)]byte{}
	_ [16]byte  = [unsafe.Offsetof(SetTimer{}.After)]byte{}
)
