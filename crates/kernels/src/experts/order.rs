//! Tokens in the order of their experts.

/// Says which token names an expert that there is not, or one twice.
///
/// # Errors
/// The first such token.
pub fn check_chosen(experts: usize, active: usize, chosen: &[i32]) -> Result<(), String> {
    for (token, chosen) in chosen.chunks(active.max(1)).enumerate() {
        for (i, &e) in chosen.iter().enumerate() {
            if e < 0 || e as usize >= experts {
                return Err(format!("row {token} chooses expert {e} of {experts}"));
            }
            if chosen[..i].contains(&e) {
                return Err(format!("row {token} chooses expert {e} twice"));
            }
        }
    }
    Ok(())
}

/// Places (token · k + j) by rising expert, those of one expert by rising token: `order[offsets[e]..offsets[e + 1]]`.
pub(super) fn by_expert(chosen: &[i32], offsets: &mut [u32], order: &mut [u32]) {
    offsets.fill(0);
    for &e in chosen {
        offsets[e as usize + 1] += 1;
    }
    for e in 1..offsets.len() {
        offsets[e] += offsets[e - 1];
    }
    // Each place moves the offset of its expert on, so that offsets end where the next expert's began.
    for (place, &e) in chosen.iter().enumerate() {
        let at = &mut offsets[e as usize];
        order[*at as usize] = place as u32;
        *at += 1;
    }
    for e in (1..offsets.len()).rev() {
        offsets[e] = offsets[e - 1];
    }
    offsets[0] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_there_once_by_expert_and_then_by_token() {
        let chosen = [2, 0, 3, 2, 0, 2];
        let (mut offsets, mut order) = ([9; 6], [9; 6]);
        by_expert(&chosen, &mut offsets, &mut order);
        assert_eq!(offsets, [0, 2, 2, 5, 6, 6]);
        assert_eq!(order, [1, 4, 0, 3, 5, 2]);
    }

    #[test]
    fn what_is_no_choice_is_refused() {
        assert_eq!(check_chosen(4, 2, &[0, 3, 3, 1]), Ok(()));
        assert!(check_chosen(4, 2, &[0, 3, 4, 1]).expect_err("beyond").contains("row 1 chooses expert 4 of 4"));
        assert!(check_chosen(4, 2, &[0, -1]).expect_err("below").contains("-1"));
        assert!(check_chosen(4, 2, &[3, 3]).expect_err("twice").contains("twice"));
    }
}
