;; Leaves what it receives, but wants it cut in another way each time.
(global $min (mut i64) (i64.const 1))
(func $received (param $p i32)
  (global.set $min (i64.sub (i64.const 3) (global.get $min)))
  (call $head (i64.const 8) (i64.const 16))
  (call $put (i64.or (global.get $min) (i64.const 0x800000000000))))
