// Package sdktest is the conformance suite for protocol plugins and the
// executor that it is built on, a reference implementation of the engine's side
// of the contract that checks every action against what the plugin was handed.
//
// The author of a plugin writes one test:
//
//	func TestConformance(t *testing.T) {
//		sdktest.Run(t, sdktest.Harness{
//			Manifest: myprotocol.Plugin().Manifest(),
//			Open:     sdktest.Linked(myprotocol.Plugin()),
//			Dial:     func(sdktest.TB) sdktest.Server { return newMyServer() },
//		})
//	}
//
// The same suite runs over a plugin in any runtime: Open gives an Instance of
// it. With Other, an instance of another build, connections are handed over
// between the two; RunHandover does only that part. The package imports nothing
// of the engine, whose instances have the same methods.
//
// Read first: sdk/PLUGIN.md, then harness.go.
package sdktest
