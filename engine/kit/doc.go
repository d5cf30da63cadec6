// Package kit is for those who write plugins: it writes skeletons of them, and
// runs the conformance suite (sdk/sdktest) over a plugin's file, in the runtime
// in which an engine would run it. It serves nothing.
//
// Read first: suite.go for "engine plugin test", skeleton.go for "engine plugin
// new".
package kit
