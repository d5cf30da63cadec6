;; Sends without an end to a server that does not read.
(func $request (param $p i32) (call $rest))
(func $rest
  (call $head (i64.const 1) (i64.const 0x8010)) (call $put (i64.const 0x8000))
  (global.set $n (i32.const 0x8010))
  (global.set $more (i32.const 0x80000000)))
