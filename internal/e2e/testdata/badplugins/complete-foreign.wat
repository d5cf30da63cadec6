;; Completes a request that it was never given.
(func $request (param $p i32) (call $complete (i64.const 0xdeadbeefdeadbeef) (i64.const 0)))
