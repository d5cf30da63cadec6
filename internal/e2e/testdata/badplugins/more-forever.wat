;; Always has more actions.
(func $request (param $p i32) (call $rest))
(func $rest
  (call $head (i64.const 8) (i64.const 16)) (call $put (i64.const 0x800000000001))
  (global.set $more (i32.const 0x80000000)))
